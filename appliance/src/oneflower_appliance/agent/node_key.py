"""The key that identifies a SuperNode to its SuperLink. It is made in the guest; the private half never leaves it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oneflower_appliance.files import write_atomic
from oneflower_appliance.public_key import PublicKey

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class NodeKey:
    """The path of the private key (OpenSSH format, 0600), and its public half."""

    path: Path
    public: PublicKey
    private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, path: Path) -> NodeKey:
        """Return the key in `path`; make one (ECDSA P-384) if there is none that can be read."""
        private: object = None
        with suppress(OSError, ValueError):
            private = serialization.load_ssh_private_key(path.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            private = ec.generate_private_key(ec.SECP384R1())
            pem = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            write_atomic(path, pem)
        return cls(path, PublicKey.of(private.public_key()), private)

    @property
    def published(self) -> str:
        """The public key as OneGate can carry it: base64."""
        return self.public.published

    def sign(self, statement: bytes) -> bytes:
        """Return a signature that `PublicKey.signed` accepts."""
        return self.private.sign(statement, ec.ECDSA(hashes.SHA256()))
