"""The PyTorch models: a small convolutional network, and ResNet-18 (He et al., 2016) for real images.

ResNet-18 has group instead of batch normalisation, as is usual in federated learning: batch statistics of different
nodes cannot be averaged (Hsieh et al., 2020). The one model with batch normalisation, `cnn-bn`, is for FedBN, which
does not average them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from image_classification.models import in_order
from oneflower_appliance.training.devices import torch_device
from oneflower_appliance.training.precision import Precision

if TYPE_CHECKING:
    from image_classification.images import Images
    from image_classification.models import Arrays, TrainingOptions


class _Block(nn.Module):
    """Two convolutions and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(8, outputs)
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(8, outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.first_norm(self.first(images)))
        return functional.relu(self.second_norm(self.second(hidden)) + self.around(images))


def _resnet18(channels: int, classes: int) -> nn.Module:
    stem = [nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def _cnn(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(32 * 16, classes),
    )  # fmt: skip


def _cnn_bn(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(32 * 16, classes),
    )  # fmt: skip


_MODELS = {"cnn": _cnn, "cnn-bn": _cnn_bn, "resnet18": _resnet18}
_COUNTED = "num_batches_tracked"  # by batch normalisation, which uses it for nothing here


def initial(shape: tuple[int, int, int], classes: int, model: str, seed: int) -> Arrays:
    """Return PyTorch's initial parameters, the same for the same seed."""
    torch.manual_seed(seed)
    return _arrays(_MODELS[model](shape[2], classes))


def batch_norms(shape: tuple[int, int, int], classes: int, model: str) -> list[str]:
    """Return the names of the arrays of batch normalisation."""
    net = _MODELS[model](shape[2], classes)
    layers = [name for name, layer in net.named_modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    return [name for name in _arrays(net) if name.rpartition(".")[0] in layers]


def train(arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by stochastic gradient descent with momentum."""
    torch.manual_seed(options.seed)
    device = torch_device()
    net = _net(arrays, data, options).to(device).train()
    start = [parameter.detach().clone() for parameter in net.parameters()]
    optimiser = torch.optim.SGD(net.parameters(), options.rate, momentum=0.9)
    precision = Precision(options.precision, device)
    losses, seen = [], 0
    for indices in options.batches(len(data)):
        optimiser.zero_grad()
        with precision.forward():
            loss = functional.cross_entropy(net(_tensor(data, indices, device)), _labels(data, indices, device))
        losses.append(float(loss.detach()) * len(indices))
        seen += len(indices)
        if options.mu:
            pairs = zip(net.parameters(), start, strict=True)
            loss = loss + options.mu / 2 * sum(((now - then) ** 2).sum() for now, then in pairs)
        precision.step(loss, optimiser)
    last = -(-len(data) // options.batch)
    return _arrays(net), sum(losses[-last:]) / len(data)


def evaluate(arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[float, float]:
    """Return cross-entropy loss and accuracy."""
    device = torch_device()
    net = _net(arrays, data, options).to(device).eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for indices in in_order(len(data), 256):
            scores, labels = net(_tensor(data, indices, device)), _labels(data, indices, device)
            loss += float(functional.cross_entropy(scores, labels, reduction="sum"))
            correct += int((scores.argmax(1) == labels).sum())
    return loss / len(data), correct / len(data)


def _net(arrays: Arrays, data: Images, options: TrainingOptions) -> nn.Module:
    channels = data.batch(np.zeros(1, dtype=np.int64)).shape[3]
    classes = next(reversed(arrays.values())).shape[0]
    net = _MODELS[options.model](channels, classes)
    counted = {name: tensor for name, tensor in net.state_dict().items() if name.endswith(_COUNTED)}
    net.load_state_dict(counted | {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return net


def _arrays(net: nn.Module) -> Arrays:
    tensors = net.state_dict().items()
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors if not name.endswith(_COUNTED)}


def _tensor(data: Images, indices: np.ndarray, device: torch.device) -> torch.Tensor:
    pixels = np.ascontiguousarray(data.batch(indices).transpose(0, 3, 1, 2), dtype=np.float32)
    return torch.from_numpy(pixels).to(device)


def _labels(data: Images, indices: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(data.labels[indices]).to(device)
