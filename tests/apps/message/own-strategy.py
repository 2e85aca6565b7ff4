"""A strategy of the app's own, from Flower's base class: momentum, and nodes weighted by their loss"""
import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy

from .task import get_weights, new_model

app = ServerApp()


class LossWeighted(Strategy):
    def __init__(self, momentum):
        self.momentum, self.velocity, self.current = momentum, None, None

    def summary(self):
        print("momentum", self.momentum)

    def configure_train(self, server_round, arrays, config, grid):
        self.current = arrays.to_numpy_ndarrays()
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        nodes = sorted(grid.get_node_ids())
        return [Message(content, dst_node_id=node, message_type=MessageType.TRAIN) for node in nodes]

    def aggregate_train(self, server_round, replies):
        good = [reply.content for reply in replies if not reply.has_error()]
        weights = np.array([1 / found["metrics"]["train_loss"] for found in good])
        models = [found["arrays"].to_numpy_ndarrays() for found in good]
        target = [np.average(layer, axis=0, weights=weights) for layer in map(np.stack, zip(*models))]
        step = [new - old for new, old in zip(target, self.current)]
        if self.velocity is not None:
            step = [new + self.momentum * old for new, old in zip(step, self.velocity)]
        self.velocity = step
        arrays = ArrayRecord([old + change for old, change in zip(self.current, step)])
        return arrays, MetricRecord({"train_loss": float(np.mean(1 / weights))})

    def configure_evaluate(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content, dst_node_id=node, message_type="evaluate") for node in grid.get_node_ids()]

    def aggregate_evaluate(self, server_round, replies):
        losses = [reply.content["metrics"]["eval_loss"] for reply in replies if reply.has_content()]
        return MetricRecord({"eval_loss": float(np.mean(sorted(losses))), "nodes": len(losses)})


@app.main()
def main(grid, context):
    arrays = ArrayRecord(get_weights(new_model()))
    result = LossWeighted(momentum=0.5).start(grid=grid, initial_arrays=arrays, num_rounds=3)
    print("norm", round(float(np.linalg.norm(result.arrays.to_numpy_ndarrays()[0])), 5))
