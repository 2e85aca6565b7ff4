"""Two strategies, one after the other: FedAdam, and FedYogi from where it ended"""
#: config = {num-server-rounds = 2}
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAdam, FedYogi

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    rounds = context.run_config["num-server-rounds"]
    arrays = ArrayRecord(get_weights(new_model()))
    warm_up = FedAdam(eta=0.1, tau=0.01).start(grid, arrays, num_rounds=rounds)
    print("after FedAdam", round(warm_up.evaluate_metrics_clientapp[rounds]["eval_accuracy"], 6))
    result = FedYogi(eta=0.05, tau=0.01).start(grid, warm_up.arrays, num_rounds=rounds)
    print("after FedYogi", round(result.evaluate_metrics_clientapp[rounds]["eval_accuracy"], 6))
