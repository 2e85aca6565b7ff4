"""A sum that the server cannot see the parts of: two phases, with a secret that nodes keep in their state"""
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()
MODULUS = 2**31


@app.main()
def main(grid, context):
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.2)

    def ask(what, contents):
        messages = [Message(content, dst_node_id=node, message_type=what) for node, content in contents.items()]
        return {reply.metadata.src_node_id: reply.content for reply in grid.send_and_receive(messages)}

    shares = ask("query.share", {node: RecordDict() for node in nodes})
    ring = dict(zip(nodes, [*nodes[1:], nodes[0]]))
    forwarded = {ring[node]: RecordDict({"from": content["share"]}) for node, content in shares.items()}
    masked = ask("query.masked", forwarded)
    print("sum:", sum(content["masked"]["value"] for content in masked.values()) % MODULUS)

# --- client_app.py
import secrets

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data

app = ClientApp()
MODULUS = 2**31


@app.query("share")
def share(msg, context):
    secret = ConfigRecord({"value": secrets.randbelow(MODULUS)})
    context.state["secret"] = secret
    return Message(RecordDict({"share": secret}), reply_to=msg)


@app.query("masked")
def masked(msg, context):
    (_, y), _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    own, other = context.state["secret"]["value"], msg.content["from"]["value"]
    return Message(RecordDict({"masked": ConfigRecord({"value": (int(y.sum()) + own - other) % MODULUS})}), reply_to=msg)
