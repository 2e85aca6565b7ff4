"""The key by which a SuperNode is known to its SuperLink, made in the guest; the private half never leaves it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class NodeKey:
    """The path of the private key (OpenSSH format, 0600) and the public key as PEM."""

    path: Path
    public_pem: str

    @classmethod
    def of(cls, path: Path) -> NodeKey:
        """Return the key in `path`, making one (ECDSA P-384) when there is none that can be read."""
        try:
            private = serialization.load_ssh_private_key(path.read_bytes(), None)
        except (OSError, ValueError):
            private = ec.generate_private_key(ec.SECP384R1())
            pem = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            write_atomic(path, pem)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(path, public.decode())

    @property
    def published(self) -> str:
        """The public key as OneGate can carry it: base64."""
        return base64.b64encode(self.public_pem.encode()).decode()


def fingerprint(published: str) -> str:
    """Return a short name of a published key."""
    return hashlib.sha256(published.encode()).hexdigest()[:16]
