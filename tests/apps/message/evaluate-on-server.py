"""FedAvg, evaluated on the server too, with a learning plan for each round, and the model saved by NumPy"""
#: config = {num-server-rounds = 3, local-epochs = 2}
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import get_weights, load_data, new_model, set_weights, test

app = ServerApp()


class Schedule(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        config["local-epochs"] = config["local-epochs"] + server_round
        print(f"round {server_round}: {config['local-epochs']} epochs")
        return super().configure_train(server_round, arrays, config, grid)


def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    model = new_model()
    set_weights(model, arrays.to_numpy_ndarrays())
    loss, accuracy = test(model, load_data()[1])
    return MetricRecord({"loss": loss, "accuracy": accuracy})


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    result = Schedule(fraction_evaluate=0.5, min_evaluate_nodes=2).start(
        grid=grid,
        initial_arrays=ArrayRecord(get_weights(new_model())),
        train_config=ConfigRecord({"local-epochs": config["local-epochs"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=central_evaluate,
    )
    for server_round, metrics in result.evaluate_metrics_serverapp.items():
        print(f"{server_round}: {metrics['accuracy']:.4f}")
    coef, intercept = result.arrays.to_numpy_ndarrays()
    np.savez("final_model.npz", coef=coef, intercept=intercept)
