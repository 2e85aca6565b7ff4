"""Two scripts, `fl.server.start_server` and `fl.client.start_numpy_client`, without a pyproject.toml"""
#: pyproject = false
#: refused = "start_numpy_client"
# --- server.py
import flwr as fl

if __name__ == "__main__":
    strategy = fl.server.strategy.FedAvg()
    fl.server.start_server(server_address="0.0.0.0:8080", config=fl.server.ServerConfig(num_rounds=2), strategy=strategy)
# --- client.py
import flwr as fl

from task import get_weights, load_data, new_model, set_weights


class DigitsClient(fl.client.NumPyClient):
    def get_parameters(self, config):
        return get_weights(new_model())

    def fit(self, parameters, config):
        model = new_model()
        set_weights(model, parameters)
        data, _ = load_data()
        model.fit(*data)
        return get_weights(model), len(data[0]), {}


fl.client.start_numpy_client(server_address="127.0.0.1:8080", client=DigitsClient())
