"""Clips an update to a norm, and adds Gaussian noise that nobody can compute again.

The noise is made from the kernel's random numbers, by the method of Box and Muller. What leaves is rounded to a
multiple of about a millionth of the noise, because the last digits of floating-point numbers would tell what was added
to what (Mironov, "On Significance of the Least Significant Bits for Differential Privacy", 2012). It is still computed
in floating-point: the noise is at most 8.6 standard deviations, and the rounding has no proof.

Arrays are treated in blocks, so that a large array needs little more memory than itself.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_BLOCK = 1 << 18  # values
_BITS = 53  # of a random number from 0 to 1
_GRAIN = 20  # bits between the noise and what it is rounded to
_LESS = 1 - 1e-9  # against the rounding of the norm


class NotFiniteError(Exception):
    """A value of an update is not a finite number."""


def norm_of(pairs: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> float:
    """Return the L2 norm of all differences between two arrays. Raises `NotFiniteError`."""
    total = 0.0
    with np.errstate(all="ignore"):
        for before, after in pairs:
            for old, new in _blocks(before, after):
                difference = new - old
                if not np.isfinite(difference).all():
                    raise NotFiniteError
                total += float(np.einsum("i,i->", difference, difference))  # in this thread alone
    return math.sqrt(total)


def factor_for(norm: float, clip: float) -> float:
    """Return by what an update is multiplied so that its norm is at most `clip`."""
    return 1.0 if norm < clip * _LESS else clip / norm * _LESS


def release(
    before: NDArray[np.floating], after: NDArray[np.floating], factor: float, deviation: float
) -> NDArray[np.floating]:
    """Return `before` with the difference to `after` times `factor`, and noise of a standard deviation."""
    out = np.empty(before.size, dtype=before.dtype)
    grain = 2.0 ** (math.floor(math.log2(deviation)) - _GRAIN)
    at = 0
    with np.errstate(all="ignore"):  # what the type of the array cannot hold becomes infinite, with or without data
        for old, new in _blocks(before, after):
            update = (new - old) * factor + gaussian(old.size) * deviation
            out[at : at + old.size] = old + np.rint(update / grain) * grain
            at += old.size
    return out.reshape(before.shape)


def gaussian(count: int) -> NDArray[np.float64]:
    """Return independent numbers with the standard normal distribution."""
    half = (count + 1) // 2
    uniform = (np.frombuffer(os.urandom(16 * half), dtype=np.uint64) >> np.uint64(64 - _BITS)).astype(np.float64)
    uniform = (uniform + 0.5) * 2.0**-_BITS
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]


def _blocks(
    before: NDArray[np.floating], after: NDArray[np.floating]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    old, new = before.reshape(-1), after.reshape(-1)
    for start in range(0, old.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        yield old[part].astype(np.float64), new[part].astype(np.float64)
