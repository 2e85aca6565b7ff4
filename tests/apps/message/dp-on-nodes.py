"""Differential privacy: a wrapper and Flower's mod that clips on the nodes, beside another mod"""
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(fraction_train=1.0, min_train_nodes=2)
    private = DifferentialPrivacyClientSideFixedClipping(
        strategy, noise_multiplier=1e-12, clipping_norm=0.7, num_sampled_clients=2
    )
    private.start(grid=grid, initial_arrays=ArrayRecord(get_weights(new_model())), num_rounds=2)

# --- client_app.py
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod, message_size_mod

from .task import get_weights, load_data, new_model, set_weights

app = ClientApp(mods=[message_size_mod])


@app.train(mods=[fixedclipping_mod])
def train(msg, context):
    data, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    model.fit(*data)
    metrics = MetricRecord({"num-examples": len(data[0])})
    return Message(RecordDict({"arrays": ArrayRecord(get_weights(model)), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg, context):
    _, (x, y) = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    metrics = MetricRecord({"eval_accuracy": model.score(x, y), "num-examples": len(x)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
