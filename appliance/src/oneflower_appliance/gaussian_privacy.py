"""How much privacy is spent by sending clipped updates with Gaussian noise: epsilon for a delta.

What is protected is all data of a node: whatever they are, the update is in a ball whose radius is the clipping norm.
Two updates differ by at most twice that norm. So a release whose noise has a standard deviation of `noise` times the
norm is Gaussian differential privacy with mu = 2 / noise (Dong, Roth and Su, "Gaussian Differential Privacy", 2019,
theorem 2.7). The squares of mu add up over the releases (corollary 3.3), also if each release depends on those before
and a budget ends them (Smith and Thakurta, "Fully Adaptive Composition for Gaussian Differential Privacy", 2022). This
sum is the *cost*. Nothing is won by sampling: who took part is known.

Flower's own accountant counts without amplification, too, but half of that distance, for a node that is added or
removed. Of the same cost it gives a little more, because Renyi differential privacy is a bound; this is exact.
"""

from __future__ import annotations

import math

_LARGE = 25.0  # from here on the series for erfcx is exact to 10 digits
_STEPS = 100


def cost_of(noise: float) -> float:
    """Return the cost of one release. `noise` is the standard deviation as a multiple of the clipping norm."""
    return (2.0 / noise) ** 2


def epsilon_of(cost: float, delta: float) -> float:
    """Return epsilon for the sum of costs and a `delta` between 0 and 1; never less than it is."""
    if cost <= 0:
        return 0.0
    mu = math.sqrt(cost)
    if not math.isfinite(mu):
        return math.inf
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # Bun and Steinke, 2016, proposition 1.3
    if _delta_of(mu, 0.0) <= delta:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _delta_of(mu, middle) <= delta else (middle, high)
    return high


def _delta_of(mu: float, epsilon: float) -> float:
    """Return delta for an epsilon (Balle and Wang, "Improving the Gaussian Mechanism", 2018, theorem 8)."""
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    tail = _scaled(far / math.sqrt(2))
    if near > 0:
        return math.exp(-near * near / 2) / 2 * (_scaled(near / math.sqrt(2)) - tail)
    return math.erfc(near / math.sqrt(2)) / 2 - math.exp(-near * near / 2) / 2 * tail


def _scaled(x: float) -> float:
    """Return exp(x*x) * erfc(x), for x >= 0."""
    if x < _LARGE:
        return math.exp(x * x) * math.erfc(x)
    inverse = 1 / (2 * x * x)
    return (1 - inverse * (1 - 3 * inverse * (1 - 5 * inverse))) / (x * math.sqrt(math.pi))
