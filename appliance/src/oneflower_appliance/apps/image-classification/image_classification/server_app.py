"""What the SuperLink does: aggregate, and test each global model on images that no node has seen."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from image_classification import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    _, test = task.load(int(config["seed"]))

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        loss, accuracy = task.evaluate(arrays.to_numpy_ndarrays(), test)
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy = FedAvg(
        min_train_nodes=int(config["min-train-nodes"]),
        min_evaluate_nodes=int(config["min-evaluate-nodes"]),
        min_available_nodes=int(config["min-available-nodes"]),
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(task.initial()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
