"""Own apps on the frameworks that no pre-built app is written for, and the pre-built apps on what those are built on."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.frameworks]

PROJECT = """
[project]
name = "own"
version = "1.0.0"
dependencies = ["flwr>=1.41", "{package}"]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "own.app:server"
clientapp = "own.app:client"
"""

COMMON = """
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    torch.manual_seed(7)
    model = Model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    fit(model, context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    model = Model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return Message(RecordDict({"metrics": MetricRecord(score(model) | {"num-examples": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    torch.manual_seed(7)
    FedAvg().start(grid=grid, initial_arrays=ArrayRecord(Model().state_dict()), num_rounds=1)
"""

LIGHTNING = """
import lightning.pytorch as lightning
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch, _):
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)

def digits(start, step):
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images[start::step] / 16, dtype=torch.float32), torch.tensor(labels[start::step]))

def trainer():
    return lightning.Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                             enable_progress_bar=False)

def fit(model, number, count):
    trainer().fit(model, DataLoader(digits(number, count + 1), 32, shuffle=True))

def score(model):
    return trainer().test(model, DataLoader(digits(2, 3), 600), verbose=False)[0]
"""

MONAI = """
import numpy as np
from monai.data import create_test_image_2d
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import AsDiscrete

class Model(UNet):
    def __init__(self):
        super().__init__(2, 1, 1, channels=(8, 16, 32), strides=(2, 2))

def images(seed):
    pairs = [create_test_image_2d(32, 32, rad_max=8, random_state=np.random.RandomState(seed + n)) for n in range(16)]
    image, label = (torch.tensor(np.stack(part)[:, None], dtype=torch.float32) for part in zip(*pairs, strict=True))
    return image, (label > 0).float()

def fit(model, number, count):
    image, label = images(100 * number)
    optimiser, loss = torch.optim.Adam(model.parameters(), 0.02), DiceLoss(sigmoid=True)
    for _ in range(40):
        optimiser.zero_grad()
        loss(model(image), label).backward()
        optimiser.step()

def score(model):
    image, label = images(900)
    with torch.no_grad():
        found = torch.stack([AsDiscrete(threshold=0.5)(torch.sigmoid(one)) for one in model(image)])
    return {"dice": float(DiceMetric()(found, label).mean())}
"""


@pytest.mark.parametrize(
    ("name", "app", "metric", "least"), [("lightning", LIGHTNING, "accuracy", 0.9), ("monai", MONAI, "dice", 0.7)]
)
def test_an_own_app_and_a_prebuilt_one_train(user, name, app, metric, least):
    folder = user.folder / name
    (folder / "own").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(package=name))
    (folder / "own" / "__init__.py").touch()
    (folder / "own" / "app.py").write_text(app + COMMON)
    user("up", name, "--set", f"ML_FRAMEWORK={name}", "--timeout", "900")
    try:
        own = json.loads(user("run", f"./{name}", "-f", name, "-o", "json").stdout)
        tumours = json.loads(user("run", "anomaly-detection", "-r", "1", "-f", name, "-o", "json").stdout)
    finally:
        user("down", name)
    assert own["rows"][-1]["metrics"]["evaluate"][metric] > least
    assert tumours["rows"][-1]["metrics"]["evaluate"]["roc_auc"] > 0.94
