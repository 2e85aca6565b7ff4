"""A package from a URL, which is not installed"""
#: dependencies = ["tiny @ https://127.0.0.1:9/tiny-1.0-py3-none-any.whl"]
#: refused = "https://127.0.0.1:9/"
import tiny
