"""Client state in the old words (RecordSet, ConfigsRecord), a mod of the app's own and one of Flower's, FedProx"""
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedProx


def sums(metrics):
    norm = sum(found["norm"] for _, found in metrics)
    return {"times": max(found["times"] for _, found in metrics), "mu": metrics[0][1]["mu"], "norm": norm}


def server_fn(context):
    strategy = FedProx(proximal_mu=0.25, fit_metrics_aggregation_fn=sums, fraction_evaluate=0.0)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))


app = ServerApp(server_fn=server_fn)

# --- client_app.py
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import arrays_size_mod
from flwr.common import ConfigsRecord, Context, Message, RecordSet

from .task import get_weights, load_data, new_model, set_weights


def counting_mod(msg: Message, context: Context, call_next) -> Message:
    state: RecordSet = context.state
    if "calls" not in state.config_records:
        state.config_records["calls"] = ConfigsRecord({"times": 0})
    if msg.metadata.message_type == "train":
        state.config_records["calls"]["times"] += 1
    return call_next(msg, context)


class DigitsClient(NumPyClient):
    def __init__(self, context):
        self.client_state = context.state
        self.train, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
        self.model = new_model()

    def get_parameters(self, config):
        return get_weights(self.model)

    def fit(self, parameters, config):
        set_weights(self.model, parameters)
        self.model.fit(*self.train)
        times = self.client_state.config_records["calls"]["times"]
        norm = float(np.linalg.norm(get_weights(self.model)[0]))
        return get_weights(self.model), len(self.train[0]), {"times": times, "mu": config["proximal_mu"], "norm": norm}


def client_fn(context: Context):
    return DigitsClient(context).to_client()


app = ClientApp(client_fn=client_fn, mods=[counting_mod, arrays_size_mod])
