"""A strategy of the app's own from the base class, which gives each client another learning plan"""
from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import Strategy
from flwr.server.strategy.aggregate import aggregate, weighted_loss_avg

from .task import get_weights, new_model


class FedCustom(Strategy):
    def __repr__(self):
        return "FedCustom"

    def initialize_parameters(self, client_manager):
        return ndarrays_to_parameters(get_weights(new_model()))

    def configure_fit(self, server_round, parameters, client_manager):
        clients = sorted(client_manager.sample(2, min_num_clients=2), key=lambda client: client.cid)
        half = len(clients) // 2
        return [(client, FitIns(parameters, {"local_epochs": 4 if number < half else 4.0}))
                for number, client in enumerate(clients)]

    def aggregate_fit(self, server_round, results, failures):
        weights = [(parameters_to_ndarrays(found.parameters), found.num_examples) for _, found in results]
        return ndarrays_to_parameters(aggregate(weights)), {"clients": len(results), "failures": len(failures)}

    def configure_evaluate(self, server_round, parameters, client_manager):
        return [(client, EvaluateIns(parameters, {})) for client in client_manager.all().values()]

    def aggregate_evaluate(self, server_round, results, failures):
        return weighted_loss_avg([(found.num_examples, found.loss) for _, found in results]), {"n": len(results)}

    def evaluate(self, server_round, parameters):
        return None


def server_fn(context):
    return ServerAppComponents(strategy=FedCustom(), config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=server_fn)

# --- client_app.py
from flwr.client import ClientApp, NumPyClient

from .task import get_weights, load_data, new_model, set_weights, test


class DigitsClient(NumPyClient):
    def __init__(self, context):
        self.data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])

    def fit(self, parameters, config):
        model = new_model(int(config["local_epochs"]))
        set_weights(model, parameters)
        model.fit(*self.data[0])
        return get_weights(model), len(self.data[0][0]), {}

    def evaluate(self, parameters, config):
        model = new_model()
        set_weights(model, parameters)
        loss, accuracy = test(model, self.data[1])
        return float(loss), len(self.data[1][0]), {"accuracy": float(accuracy)}


app = ClientApp(client_fn=lambda context: DigitsClient(context).to_client())
