"""Keys that two nodes agree on, sealed messages between them, and shares of a secret.

A secret is a seed of 16 bytes: the size of which PyCryptodome makes Shamir shares. A private key is made from one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEED = 16
_NONCE = 12


def new_seed() -> bytes:
    """Return a new secret."""
    return os.urandom(_SEED)


def derive(secret: bytes, purpose: bytes) -> bytes:
    """Return a key of 32 bytes for one purpose."""
    return HKDF(SHA256(), 32, salt=None, info=b"oneflower secure aggregation " + purpose).derive(secret)


def public_key(seed: bytes) -> bytes:
    """Return the public key that belongs to the private key made from a seed."""
    return _private(seed).public_key().public_bytes_raw()


def agreed_key(seed: bytes, other: bytes, purpose: bytes) -> bytes:
    """Return the key that the owner of a seed and the owner of a public key share, for one purpose.

    Raises `ValueError` if the public key is not valid.
    """
    return derive(_private(seed).exchange(X25519PublicKey.from_public_bytes(other)), purpose)


def _private(seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(derive(seed, b"private key"))


def seal(key: bytes, content: bytes, about: bytes) -> bytes:
    """Return the content encrypted; only who has the key and names the same `about` can open it."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Return the content. Raises `ValueError` if it was sealed with another key or about something else."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], about)
    except InvalidTag:
        raise ValueError("it was sealed with another key, or for another purpose") from None


def split(seed: bytes, threshold: int, holders: int) -> list[bytes]:
    """Return a share for each holder, in their order; any `threshold` of them give the seed."""
    return [share for _, share in Shamir.split(threshold, holders, seed, ssss=False)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the seed, from shares by the place of their holder (from 0). Wrong shares give another seed."""
    return bytes(Shamir.combine([(place + 1, share) for place, share in shares.items()], ssss=False))
