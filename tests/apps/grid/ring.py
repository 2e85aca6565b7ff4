"""A model that goes from node to node, without a strategy, and is saved at the end"""
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

from .task import get_weights, load_data, new_model, set_weights, test

app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    # in the order of the shares, which ids do not tell
    where = {}
    for reply in grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]):
        where[reply.content["who"]["partition"]] = reply.metadata.src_node_id
    arrays = ArrayRecord(get_weights(new_model()))
    for lap in range(2):
        for partition in sorted(where):
            content = RecordDict({"arrays": arrays, "config": ConfigRecord()})
            [reply] = grid.send_and_receive([Message(content, dst_node_id=where[partition], message_type="train")])
            arrays = reply.content["arrays"]
            print(f"lap {lap}, node {partition}: loss {reply.content['metrics']['train_loss']:.6f}")
    np.savez("ring.npz", *arrays.to_numpy_ndarrays())

# --- client_app.py
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import get_weights, load_data, new_model, set_weights, test

app = ClientApp()


@app.query()
def who(msg, context):
    return Message(RecordDict({"who": ConfigRecord({"partition": context.node_config["partition-id"]})}), reply_to=msg)


@app.train()
def train(msg, context):
    data, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    model.fit(*data)
    metrics = MetricRecord({"train_loss": test(model, data)[0]})
    return Message(RecordDict({"arrays": ArrayRecord(get_weights(model)), "metrics": metrics}), reply_to=msg)
