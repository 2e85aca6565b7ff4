import warnings

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from .task import get_weights, load_data, new_model, set_weights, test

warnings.simplefilter("ignore")


class DigitsClient(NumPyClient):
    def __init__(self, partition_id, num_partitions):
        self.train_data, self.test_data = load_data(partition_id, num_partitions)
        self.model = new_model()

    def get_parameters(self, config):
        return get_weights(self.model)

    def fit(self, parameters, config):
        self.model.max_iter = config.get("local_epochs", 5)
        set_weights(self.model, parameters)
        self.model.fit(*self.train_data)
        loss, accuracy = test(self.model, self.train_data)
        return get_weights(self.model), len(self.train_data[0]), {"loss": loss, "accuracy": accuracy}

    def evaluate(self, parameters, config):
        set_weights(self.model, parameters)
        loss, accuracy = test(self.model, self.test_data)
        return loss, len(self.test_data[0]), {"accuracy": accuracy}


def client_fn(context: Context):
    return DigitsClient(context.node_config["partition-id"], context.node_config["num-partitions"]).to_client()


app = ClientApp(client_fn=client_fn)
