"""A subclass of FedAvg that saves the weights of each round, the first one that people look for"""
import numpy as np
from flwr.common import parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg


class SaveModelStrategy(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if parameters is not None:
            print(f"Saving round {server_round} aggregated_ndarrays...")
            np.savez(f"round-{server_round}-weights.npz", *parameters_to_ndarrays(parameters))
        return parameters, metrics

    def aggregate_evaluate(self, server_round, results, failures):
        if not results:
            return None, {}
        loss, metrics = super().aggregate_evaluate(server_round, results, failures)
        accuracies = [found.metrics["accuracy"] * found.num_examples for _, found in results]
        accuracy = sum(accuracies) / sum(found.num_examples for _, found in results)
        print(f"Round {server_round} accuracy aggregated from client results: {accuracy:.6f}")
        return loss, {"accuracy": accuracy}


def server_fn(context):
    return ServerAppComponents(strategy=SaveModelStrategy(), config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=server_fn)
