"""The tokens with which a machine proves to OneGate which one it is, made exactly as oned makes them."""

from __future__ import annotations

import base64
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

SHORTEST_PASSWORD = 32  # characters of a TOKEN_PASSWORD that nobody finds by trying


def make_token(password: str, vm_id: int, stime: int) -> str:
    """Return the token of a VM. `password` is TOKEN_PASSWORD of the user who created it, at least 32 characters.

    Source: NebulaUtil.cc (AES-256-CBC of "id:stime", the key's first 32 bytes, no initialisation vector).
    """
    return encrypt(password, f"{vm_id}:{stime}")


def encrypt(password: str, text: str) -> str:
    """Return a text as oned encrypts it: tokens, and attributes of VMs that its settings name (VM_ENCRYPTED_ATTR)."""
    cipher = Cipher(algorithms.AES256(password.encode()[:32]), modes.CBC(bytes(16))).encryptor()
    padder = PKCS7(128).padder()
    content = padder.update(text.encode()) + padder.finalize()
    return base64.b64encode(cipher.update(content) + cipher.finalize()).decode()


def is_token(given: str, password: str, vm_id: int, stime: int) -> bool:
    """Whether `given` is the token of this VM."""
    return hmac.compare_digest(given.strip().encode(), make_token(password, vm_id, stime).encode())
