"""A server of the app's own around a strategy: it stops early, and prints its history"""
from flwr.common import ndarrays_to_parameters
from flwr.server import Server, ServerApp, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.history import History
from flwr.server.strategy import FedAvgM

from .task import get_weights, new_model


class EarlyStopping(Server):
    def fit(self, num_rounds, timeout):
        history, self.parameters = History(), self._get_initial_parameters(0, timeout)
        best = float("inf")
        for number in range(1, num_rounds + 1):
            if fitted := self.fit_round(number, timeout):
                self.parameters = fitted[0] or self.parameters
            loss, metrics, _ = self.evaluate_round(number, timeout)
            history.add_loss_distributed(server_round=number, loss=loss)
            print(f"round {number}: loss {loss:.6f}")
            if best - loss < 0.2:
                print("stopping early")
                break
            best = loss
        return history, 0.0


def server_fn(context):
    initial = ndarrays_to_parameters(get_weights(new_model()))
    strategy = FedAvgM(initial_parameters=initial, server_momentum=0.1)
    server = EarlyStopping(client_manager=SimpleClientManager(), strategy=strategy)
    return ServerAppComponents(server=server, config=ServerConfig(num_rounds=5))


app = ServerApp(server_fn=server_fn)
