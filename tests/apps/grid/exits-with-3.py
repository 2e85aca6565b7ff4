"""An app that ends itself with an exit status"""
#: fails = true
#: simulated = "ends well: its simulation takes no notice of an exit status"
import sys

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("the check of the settings failed")
    sys.exit(3)
