"""Messages pushed and pulled by hand, with a limit of time"""
import time

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    content = RecordDict({"work": ConfigRecord({"times": 3})})
    out = [Message(content, dst_node_id=node, message_type="query", ttl=600, group_id="1") for node in nodes]
    waiting = set(grid.push_messages(out))
    print("pushed", len(waiting))
    total, deadline = 0, time.time() + 120
    while waiting and time.time() < deadline:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            total += reply.content["done"]["times"] if reply.has_content() else 0
        time.sleep(0.5)
    print("done", total, "left", len(waiting))

# --- client_app.py
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg, context):
    times = msg.content["work"]["times"] * (context.node_config["partition-id"] + 1)
    return Message(RecordDict({"done": MetricRecord({"times": times})}), reply_to=msg)
