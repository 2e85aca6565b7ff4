"""JAX's autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import numpy as jnp

if TYPE_CHECKING:
    from anomaly_detection.autoencoder import TrainingOptions
    from anomaly_detection.models import Arrays, Floats

_MOMENTUM = 0.9


def train(arrays: Arrays, rows: Floats, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by stochastic gradient descent with momentum."""
    start = {name: jnp.asarray(array) for name, array in arrays.items()}
    net, speed = start, jax.tree.map(jnp.zeros_like, start)
    data = jnp.asarray(rows)
    for indices in options.batches(len(rows)):
        net, speed = _step(net, speed, start, data[indices], options.rate, options.mu)
    # JAX sorts names; the other nodes' order is that of the model.
    return {name: np.asarray(net[name], dtype=np.float64) for name in arrays}, float(_error(net, data))


def reconstruct(arrays: Arrays, rows: Floats) -> Floats:
    """Return the rows as the autoencoder reconstructs them."""
    return np.asarray(_forward(arrays, jnp.asarray(rows)), dtype=np.float64)


def _forward(net: Arrays, rows: jax.Array) -> jax.Array:
    layers = len(net) // 2
    for number in range(layers):
        rows = rows @ net[f"{number}.weight"] + net[f"{number}.bias"]
        rows = jnp.tanh(rows) if number < layers - 1 else rows
    return rows


def _error(net: Arrays, rows: jax.Array) -> jax.Array:
    return jnp.mean((_forward(net, rows) - rows) ** 2)


@jax.jit
def _step(net: Arrays, speed: Arrays, start: Arrays, batch: jax.Array, rate: float, mu: float) -> tuple[Arrays, Arrays]:
    """Return the arrays and their momentum after a batch."""
    slope = jax.grad(_error)(net, batch)
    speed = {name: _MOMENTUM * speed[name] + slope[name] + mu * (net[name] - start[name]) for name in net}
    return {name: net[name] - rate * speed[name] for name in net}, speed
