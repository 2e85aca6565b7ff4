"""FedAvg with every function that it takes: config of each round, metrics, initial parameters, evaluation on the server"""
#: config = {num-server-rounds = 3, fraction-fit = 1.0}
from flwr.common import Context, Metrics, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from .task import get_weights, load_data, new_model, set_weights, test


def weighted_average(metrics: list[tuple[int, Metrics]]) -> Metrics:
    examples = [number for number, _ in metrics]
    return {"accuracy": sum(number * found["accuracy"] for number, found in metrics) / sum(examples)}


def on_fit_config(server_round: int):
    return {"local_epochs": 2 * server_round, "lr": 0.01}


def evaluate(server_round, parameters, config):
    model = new_model()
    set_weights(model, parameters)
    loss, accuracy = test(model, load_data()[1])
    print(f"central accuracy of round {server_round}: {accuracy:.4f}")
    return loss, {"central_accuracy": accuracy}


def server_fn(context: Context):
    strategy = FedAvg(
        fraction_fit=context.run_config["fraction-fit"],
        fraction_evaluate=1.0,
        min_available_clients=2,
        initial_parameters=ndarrays_to_parameters(get_weights(new_model())),
        evaluate_fn=evaluate,
        on_fit_config_fn=on_fit_config,
        fit_metrics_aggregation_fn=weighted_average,
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"], round_timeout=300)
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
