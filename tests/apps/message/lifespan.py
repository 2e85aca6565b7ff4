"""What is opened before and closed after, on the server and on the nodes (`@app.lifespan`), and own mods"""
import logging

from flwr.app import ArrayRecord
from flwr.common.logger import log
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import QFedAvg

from .task import get_weights, new_model

app = ServerApp()


@app.lifespan()
def lifespan(context):
    print("opening the experiment")
    yield
    print("closing the experiment")


@app.main()
def main(grid, context):
    log(logging.INFO, "a line in the log of Flower")
    strategy = QFedAvg(client_learning_rate=0.1, q=0.1)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(get_weights(new_model())), num_rounds=2)

# --- client_app.py
import time

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import get_weights, load_data, new_model, set_weights, test


def count_mod(msg, context, call_next):
    started = time.monotonic()
    reply = call_next(msg, context)
    metrics = reply.content["metrics"]
    metrics["was-timed"] = int(time.monotonic() >= started)
    return reply


app = ClientApp(mods=[count_mod])
DATA = {}


@app.lifespan()
def lifespan(context):
    DATA["all"] = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    yield
    DATA.clear()


@app.train()
def train(msg, context):
    data = DATA["all"][0]
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    model.fit(*data)
    metrics = MetricRecord({"train_loss": test(model, data)[0], "num-examples": len(data[0])})
    return Message(RecordDict({"arrays": ArrayRecord(get_weights(model)), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg, context):
    data = DATA["all"][1]
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    loss, accuracy = test(model, data)
    metrics = MetricRecord({"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(data[0])})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
