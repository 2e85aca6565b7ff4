"""An app that sends nothing: it prints, and writes what it was given"""
#: config = {title = "dry run", "scale.factor" = 2.5, flag = true}
import json

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print(json.dumps(dict(sorted(context.run_config.items()))))
    with open("config.json", "w") as file:
        json.dump(dict(context.run_config), file)
