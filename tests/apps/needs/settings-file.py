"""A package that writes TOML, and a module in a subfolder"""
#: dependencies = ["tomli-w>=1"]
import tomli_w
from flwr.serverapp import ServerApp

from .utils.numbers import total

app = ServerApp()


@app.main()
def main(grid, context):
    with open("summary.toml", "wb") as file:
        tomli_w.dump({"total": total([1, 2, 3])}, file)
    print("total", total([1, 2, 3]))

# --- utils/__init__.py
# --- utils/numbers.py
def total(numbers):
    return sum(numbers)
