"""Asynchronous rounds: each node gets its next task as soon as it has answered"""
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


def task(node, number):
    return Message(RecordDict({"task": ConfigRecord({"number": number})}), dst_node_id=node, message_type="train")


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    done = dict.fromkeys(nodes, 0)
    waiting = set(grid.push_messages([task(node, 1) for node in nodes]))
    total = 0
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            node = reply.metadata.src_node_id
            done[node] += 1
            total += reply.content["metrics"]["value"]
            if done[node] < 3:
                waiting |= set(grid.push_messages([task(node, done[node] + 1)]))
        time.sleep(0.2)
    print("tasks of each node:", sorted(done.values()))
    print("total:", total)

# --- client_app.py
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg, context):
    value = msg.content["task"]["number"] * 10 ** context.node_config["partition-id"]
    return Message(RecordDict({"metrics": MetricRecord({"value": value})}), reply_to=msg)
