"""A node that fails, which the app sees as an error in its reply, and continues"""
import time

from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    replies = list(grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]))
    print("good:", sum(reply.has_content() for reply in replies))
    print("errors:", [reply.error.code for reply in replies if reply.has_error()])

# --- client_app.py
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg, context):
    if context.node_config["partition-id"] == 1:
        raise RuntimeError("the database is locked")
    return Message(RecordDict(), reply_to=msg)
