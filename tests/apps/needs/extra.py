"""An extra of a package that machines have (requests[socks])"""
#: dependencies = ["requests[socks]"]
import requests
import socks
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print(requests.__name__, socks.SOCKS5)
