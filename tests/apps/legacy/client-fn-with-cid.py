"""`client_fn(cid: str)`, as before Flower 1.11, and `app` with arguments"""
from flwr.server import ServerApp, ServerConfig

app = ServerApp(config=ServerConfig(num_rounds=1))

# --- client_app.py
from flwr.client import ClientApp, NumPyClient

from .task import get_weights, load_data, new_model, set_weights, test


class DigitsClient(NumPyClient):
    def __init__(self, cid):
        self.data = load_data(int(cid), 2)

    def get_parameters(self, config):
        return get_weights(new_model())

    def fit(self, parameters, config):
        model = new_model()
        set_weights(model, parameters)
        model.fit(*self.data[0])
        return get_weights(model), len(self.data[0][0]), {}

    def evaluate(self, parameters, config):
        model = new_model()
        set_weights(model, parameters)
        loss, accuracy = test(model, self.data[1])
        return loss, len(self.data[1][0]), {"accuracy": accuracy}


def client_fn(cid: str):
    return DigitsClient(cid).to_client()


app = ClientApp(client_fn=client_fn)
