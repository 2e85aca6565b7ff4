"""A strategy that overrides `start`, keeps the best model of all rounds and writes a log of results in JSON"""
#: config = {num-server-rounds = 3}
import json
from pathlib import Path

import joblib
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import get_weights, load_data, new_model, set_weights, test

app = ServerApp()


class BestModel(FedAvg):
    def start(self, grid, initial_arrays, num_rounds=3, timeout=3600, **kwargs):
        self.best, self.results = 0.0, []
        self.folder = Path.cwd() / "outputs"
        self.folder.mkdir(exist_ok=True)
        print(f"saving into {self.folder.name}")
        result = super().start(grid, initial_arrays, num_rounds, timeout, **kwargs)
        (self.folder / "results.json").write_text(json.dumps(self.results))
        return result

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        model = new_model()
        set_weights(model, arrays.to_numpy_ndarrays())
        loss, accuracy = test(model, load_data()[1])
        self.results.append({"round": server_round, "loss": loss, "accuracy": accuracy})
        if accuracy > self.best:
            self.best = accuracy
            print(f"round {server_round}: new best accuracy {accuracy:.4f}")
            joblib.dump(model, self.folder / "best.joblib")
        return arrays, metrics


@app.main()
def main(grid, context):
    strategy = BestModel(fraction_evaluate=0.0)
    strategy.start(grid, ArrayRecord(get_weights(new_model())), num_rounds=context.run_config["num-server-rounds"])
