"""Another release of a package than machines have (numpy<2)"""
#: dependencies = ["numpy<2"]
#: refused = "numpy<2"
import numpy as np
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("numpy", np.__version__.split(".")[0])
