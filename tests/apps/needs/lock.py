"""A uv.lock that holds a package at an older release than the newest"""
#: dependencies = ["tabulate"]
#: lock = ["tabulate==0.8.10"]
#: more = "[tool.uv]\nconstraint-dependencies = ['tabulate==0.8.10']\n"
from importlib.metadata import version

from flwr.serverapp import ServerApp
from tabulate import tabulate

app = ServerApp()


@app.main()
def main(grid, context):
    print(tabulate([["tabulate", version("tabulate")]], tablefmt="github"))
