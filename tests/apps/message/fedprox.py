"""FedProx, whose term the nodes add, with metrics that the app aggregates"""
#: config = {num-server-rounds = 2, proximal-mu = 0.5}
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedProx

from .task import get_weights, new_model

app = ServerApp()


def worst(records, weighting):
    metrics = [next(iter(record.metric_records.values())) for record in records]
    return MetricRecord({"worst_accuracy": min(found["eval_accuracy"] for found in metrics), "nodes": len(metrics)})


@app.main()
def main(grid, context):
    strategy = FedProx(proximal_mu=context.run_config["proximal-mu"], evaluate_metrics_aggr_fn=worst)
    arrays = ArrayRecord(get_weights(new_model()))
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=context.run_config["num-server-rounds"])
    print("worst of all rounds:", min(row["worst_accuracy"] for row in result.evaluate_metrics_clientapp.values()))

# --- client_app.py
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import get_weights, load_data, new_model, set_weights, test

app = ClientApp()


def reply(msg, metrics, **more):
    return Message(RecordDict({"metrics": MetricRecord(metrics), **more}), reply_to=msg)


@app.train()
def train(msg, context):
    mu = msg.content["config"]["proximal-mu"]
    data, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    received = msg.content["arrays"].to_numpy_ndarrays()
    model = new_model()
    set_weights(model, received)
    model.fit(*data)
    weights = [(new + mu * old) / (1 + mu) for new, old in zip(get_weights(model), received)]
    return reply(msg, {"mu": mu, "num-examples": len(data[0])}, arrays=ArrayRecord(weights))


@app.evaluate()
def evaluate(msg, context):
    _, data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    loss, accuracy = test(model, data)
    return reply(msg, {"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(data[0])})
