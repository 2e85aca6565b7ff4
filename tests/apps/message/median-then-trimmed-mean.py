"""Robust strategies in a loop: FedMedian, FedTrimmedAvg and MultiKrum, the results in one table"""
import csv

from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, MultiKrum

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    rows = []
    for strategy in (FedMedian(), FedTrimmedAvg(beta=0.1), MultiKrum(num_nodes_to_select=1)):
        result = strategy.start(grid, ArrayRecord(get_weights(new_model())), num_rounds=1)
        rows.append([type(strategy).__name__, f"{result.evaluate_metrics_clientapp[1]['eval_loss']:.5f}"])
        print(*rows[-1])
    with open("strategies.csv", "w", newline="") as file:
        csv.writer(file).writerows([["strategy", "loss"], *rows])
