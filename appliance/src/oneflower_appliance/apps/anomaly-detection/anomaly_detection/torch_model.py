"""PyTorch's autoencoder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from oneflower_appliance.training.devices import torch_device
from oneflower_appliance.training.precision import Precision

if TYPE_CHECKING:
    from anomaly_detection.autoencoder import TrainingOptions
    from anomaly_detection.models import Arrays, Floats

log = logging.getLogger("flwr")


def train(arrays: Arrays, rows: Floats, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by stochastic gradient descent with momentum."""
    device = torch_device()
    net = _net(arrays).to(device)
    start = [parameter.detach().clone() for parameter in net.parameters()]
    optimiser = torch.optim.SGD(net.parameters(), options.rate, momentum=0.9)
    data = torch.from_numpy(rows).float().to(device)
    precision = Precision(options.precision, device)
    for indices in options.batches(len(rows)):
        optimiser.zero_grad()
        batch = data[torch.from_numpy(indices).to(device)]
        with precision.forward():
            loss = functional.mse_loss(net(batch), batch)
        if options.mu:
            pairs = zip(net.parameters(), start, strict=True)
            loss = loss + options.mu / 2 * sum(((now - then) ** 2).sum() for now, then in pairs)
        precision.step(loss, optimiser)
    trained = {}
    for number, layer in enumerate(_layers(net)):
        trained[f"{number}.weight"] = layer.weight.detach().cpu().numpy().T.astype(np.float64)
        trained[f"{number}.bias"] = layer.bias.detach().cpu().numpy().astype(np.float64)
    with torch.no_grad():
        return trained, float(functional.mse_loss(net(data), data))


def reconstruct(arrays: Arrays, rows: Floats) -> Floats:
    """Return the rows as the autoencoder reconstructs them."""
    with torch.no_grad():
        return np.asarray(_net(arrays)(torch.from_numpy(rows).float()).numpy(), dtype=np.float64)


def _net(arrays: Arrays) -> nn.Sequential:
    weights = [array for name, array in arrays.items() if name.endswith("weight")]
    parts: list[nn.Module] = []
    for weight in weights:
        parts += [nn.Linear(*weight.shape), nn.Tanh()]
    net = nn.Sequential(*parts[:-1])
    with torch.no_grad():
        for number, layer in enumerate(_layers(net)):
            layer.weight.copy_(torch.from_numpy(np.array(arrays[f"{number}.weight"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(arrays[f"{number}.bias"])))
    return net


def _layers(net: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]
