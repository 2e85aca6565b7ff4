"""A package that machines do not have, in the ServerApp and in the ClientApp"""
#: dependencies = ["humanize>=4"]
import time

import humanize
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    replies = grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes])
    print(sorted(reply.content["said"]["text"] for reply in replies), humanize.intcomma(1797))

# --- client_app.py
import humanize
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg, context):
    text = humanize.ordinal(context.node_config["partition-id"] + 1)
    return Message(RecordDict({"said": ConfigRecord({"text": text})}), reply_to=msg)
