"""The key that identifies a SuperNode to its SuperLink. It is made in the guest; the private half never leaves it."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LONGEST = 4096


@dataclass(frozen=True)
class PublicKey:
    """A key that a node published, in the form for Flower, and its short name.

    Flower compares keys by their text. So every text of a key is first converted to one form. Otherwise a key could be
    registered, or evicted, under a second name.
    """

    pem: str
    fingerprint: str

    @classmethod
    def read(cls, published: str) -> PublicKey:
        """Read what `NodeKey.published` wrote. Raises `ValueError` saying what is wrong with it."""
        if len(published) > _LONGEST:
            raise ValueError("it is too long")
        try:
            key = serialization.load_pem_public_key(base64.b64decode(published, validate=True))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError("it is not the base64 of a public key in PEM") from error
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
            return cls.of(key)
        raise ValueError("it is not an elliptic-curve key on P-256, P-384 or P-521")

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> PublicKey:
        """Return the normal form of a key."""
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(pem.decode(), hashlib.sha256(der).hexdigest()[:16])


@dataclass(frozen=True)
class NodeKey:
    """The path of the private key (OpenSSH format, 0600), and its public half."""

    path: Path
    public: PublicKey

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
        return cls(path, PublicKey.of(private.public_key()))

    @property
    def published(self) -> str:
        """The public key as OneGate can carry it: base64."""
        return base64.b64encode(self.public.pem.encode()).decode()
