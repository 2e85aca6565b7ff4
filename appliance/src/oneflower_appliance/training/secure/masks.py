"""Masks: vectors that only who has a seed can compute, and that nobody else can tell from random numbers.

A mask is the key stream of AES-256 in counter mode, which a processor makes at some gigabytes a second. It is made
piece by piece, so it takes no memory of the vector's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from oneflower_appliance.training.secure.secrets import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE = 1 << 18  # bytes
_BLOCK = 16  # bytes that the cipher wants to have free beyond the piece


def add_mask(vector: NDArray[np.uint64], seed: bytes, *, negative: bool = False) -> None:
    """Add the mask of a seed to a vector, or subtract it. What is too large wraps around."""
    stream = Cipher(algorithms.AES256(derive(seed, b"mask")), modes.CTR(bytes(_BLOCK))).encryptor()
    zeros, made = memoryview(bytes(_PIECE)), bytearray(_PIECE + _BLOCK)
    mask = np.frombuffer(made, "<u8", _PIECE // vector.itemsize)
    for start in range(0, len(vector), len(mask)):
        piece = vector[start : start + len(mask)]
        stream.update_into(zeros[: piece.nbytes], made)
        if negative:
            piece -= mask[: len(piece)]
        else:
            piece += mask[: len(piece)]
