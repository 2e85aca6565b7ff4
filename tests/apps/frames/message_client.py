import warnings

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import get_weights, load_data, new_model, set_weights, test

warnings.simplefilter("ignore")
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    config = msg.content["config"]
    data, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model(int(config.get("local-epochs", 5)))
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    model.fit(*data)
    loss, accuracy = test(model, data)
    metrics = {"train_loss": loss, "train_accuracy": accuracy, "num-examples": len(data[0])}
    content = RecordDict({"arrays": ArrayRecord(get_weights(model)), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model()
    set_weights(model, msg.content["arrays"].to_numpy_ndarrays())
    loss, accuracy = test(model, data)
    metrics = MetricRecord({"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(data[0])})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
