"""A proof that a SuperLink itself published its attributes.

OneGate lets every VM of a service write the attributes of every other. But no VM can read the token of another VM,
which is only on that VM's disk. The owner of the service can compute it from the TOKEN_PASSWORD of its OpenNebula user.
So a SuperLink adds to its attributes an authentication code whose key is its token (FL_PROOF), and the owner's client
checks it before it connects.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

from oneflower_appliance import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

PROOF = attributes.PROOF.name
PROVEN = tuple(found.name for found in attributes.ATTRIBUTES.values() if found.proven)


def prove(token: str, vm: int, published: Mapping[str, str]) -> str:
    """Return the proof for attributes published by the VM that has `token`."""
    text = json.dumps([vm, [[name, published.get(name, "")] for name in PROVEN]])
    key = hmac.digest(token.encode(), b"oneflower FL_PROOF, version 1", "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def proves(token: str, vm: int, published: Mapping[str, str]) -> bool:
    """Whether the attributes of a VM have a valid proof."""
    return hmac.compare_digest(published.get(PROOF, "").encode(), prove(token, vm, published).encode())
