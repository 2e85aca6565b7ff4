"""A client that fails in the second round: a strategy that accepts failures continues without it"""
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg


class Counting(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        print(f"round {server_round}: {len(results)} results, {len(failures)} failures")
        return super().aggregate_fit(server_round, results, failures)


def server_fn(context):
    strategy = Counting(min_fit_clients=2, accept_failures=True, on_fit_config_fn=lambda number: {"round": number})
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=server_fn)

# --- client_app.py
from flwr.client import ClientApp, NumPyClient

from .task import get_weights, load_data, new_model, set_weights, test


class DigitsClient(NumPyClient):
    def __init__(self, partition, partitions):
        self.partition, self.data = partition, load_data(partition, partitions)

    def get_parameters(self, config):
        return get_weights(new_model())

    def fit(self, parameters, config):
        if config["round"] == 2 and self.partition == 1:
            raise ValueError("CUDA out of memory")
        model = new_model()
        set_weights(model, parameters)
        model.fit(*self.data[0])
        return get_weights(model), len(self.data[0][0]), {}

    def evaluate(self, parameters, config):
        model = new_model()
        set_weights(model, parameters)
        loss, accuracy = test(model, self.data[1])
        return loss, len(self.data[1][0]), {"accuracy": accuracy}


def client_fn(context):
    return DigitsClient(context.node_config["partition-id"], context.node_config["num-partitions"]).to_client()


app = ClientApp(client_fn=client_fn)
