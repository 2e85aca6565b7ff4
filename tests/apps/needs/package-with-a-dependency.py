"""A package that needs another one (prettytable, wcwidth), for a table of the rounds"""
#: dependencies = ["prettytable~=3.10"]
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from prettytable import PrettyTable

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    result = FedAvg().start(grid=grid, initial_arrays=ArrayRecord(get_weights(new_model())), num_rounds=2)
    table = PrettyTable(["round", "accuracy"])
    for number, metrics in result.evaluate_metrics_clientapp.items():
        table.add_row([number, f"{metrics['eval_accuracy']:.4f}"])
    print(table)
