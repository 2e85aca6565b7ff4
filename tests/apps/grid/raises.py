"""An app that raises an error after some work"""
#: fails = true
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("reading the plan")
    with open("plan.json") as file:
        print(file.read())
