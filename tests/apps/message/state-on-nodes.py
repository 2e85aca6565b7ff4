"""Nodes that keep a part of the model and a history in `context.state` between rounds"""
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(get_weights(new_model())[:1]), num_rounds=3)
    for number, metrics in result.train_metrics_clientapp.items():
        print(number, metrics["rounds-so-far"], round(metrics["bias"], 6))

# --- client_app.py
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data, new_model

app = ClientApp()


@app.train()
def train(msg, context):
    state = context.state
    if "head" not in state.array_records:
        state["head"] = ArrayRecord([np.zeros(10)])
        state["history"] = ConfigRecord({"epochs": [0], "last": ""})
    data, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    model.coef_, model.intercept_ = msg.content["arrays"].to_numpy_ndarrays()[0], state["head"].to_numpy_ndarrays()[0]
    model.fit(*data)
    state["head"] = ArrayRecord([model.intercept_])
    history = state["history"]
    history["epochs"] = [*history["epochs"], 5]
    history["last"] = msg.metadata.message_type
    bias = float(np.abs(model.intercept_).sum())
    metrics = {"rounds-so-far": len(history["epochs"]) - 1, "bias": bias, "num-examples": len(data[0])}
    return Message(RecordDict({"arrays": ArrayRecord([model.coef_]), "metrics": MetricRecord(metrics)}), reply_to=msg)
