"""Clients of the class `Client`, with FitRes, Status and properties, and FedAdam"""
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAdam

from .task import get_weights, new_model


def server_fn(context):
    initial = ndarrays_to_parameters(get_weights(new_model()))
    strategy = FedAdam(initial_parameters=initial, eta=0.1, tau=0.01)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=server_fn)

# --- client_app.py
from flwr.client import Client, ClientApp
from flwr.common import (
    Code, EvaluateIns, EvaluateRes, FitIns, FitRes, GetParametersIns, GetParametersRes, Status,
    ndarrays_to_parameters, parameters_to_ndarrays,
)

from .task import get_weights, load_data, new_model, set_weights, test

OK = Status(code=Code.OK, message="Success")


class DigitsClient(Client):
    def __init__(self, partition_id, num_partitions):
        self.train, self.test = load_data(partition_id, num_partitions)
        self.model = new_model()

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        return GetParametersRes(status=OK, parameters=ndarrays_to_parameters(get_weights(self.model)))

    def fit(self, ins: FitIns) -> FitRes:
        set_weights(self.model, parameters_to_ndarrays(ins.parameters))
        self.model.fit(*self.train)
        parameters = ndarrays_to_parameters(get_weights(self.model))
        return FitRes(status=OK, parameters=parameters, num_examples=len(self.train[0]), metrics={})

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        set_weights(self.model, parameters_to_ndarrays(ins.parameters))
        loss, accuracy = test(self.model, self.test)
        return EvaluateRes(status=OK, loss=loss, num_examples=len(self.test[0]), metrics={"accuracy": accuracy})


def client_fn(context):
    return DigitsClient(**{name.replace("-", "_"): value for name, value in context.node_config.items()
                           if name in ("partition-id", "num-partitions")})


app = ClientApp(client_fn)
