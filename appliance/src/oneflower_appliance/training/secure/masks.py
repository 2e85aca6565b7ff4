"""Masks: vectors that only who has a seed can compute, and that cannot be told from random numbers by anybody else.

They are the key stream of AES-256 in counter mode, which a processor makes at some gigabytes a second. A mask is made
piece by piece, so it takes no memory of the vector's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from oneflower_appliance.training.secure.secrets import derive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

_PIECE = 1 << 18  # bytes
_BLOCK = 16  # bytes that the cipher wants to have free beyond the piece


def add_masks(vectors: Mapping[str, NDArray[np.unsignedinteger[Any]]], seed: bytes, *, negative: bool = False) -> None:
    """Add to each vector the mask that a seed gives for its name, or subtract it. What is too large wraps around."""
    for name, vector in vectors.items():
        key = derive(seed, f"mask of {name}".encode())
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK))).encryptor()
        zeros, made = memoryview(bytes(_PIECE)), bytearray(_PIECE + _BLOCK)
        mask = np.frombuffer(made, vector.dtype, _PIECE // vector.itemsize)
        step = len(mask)
        for start in range(0, len(vector), step):
            piece = vector[start : start + step]
            stream.update_into(zeros[: piece.nbytes], made)
            if negative:
                piece -= mask[: len(piece)]
            else:
                piece += mask[: len(piece)]
