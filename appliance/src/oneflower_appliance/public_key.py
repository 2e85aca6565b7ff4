"""The public key by which a SuperLink recognises a SuperNode, in one form, and its short names."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LONGEST = 4096
_DER = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


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
        der = key.public_bytes(*_DER)
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(pem.decode(), hashlib.sha256(der).hexdigest()[:16])

    @property
    def published(self) -> str:
        """The key in base64, which `read` reads."""
        return base64.b64encode(self.pem.encode()).decode()

    @property
    def long_fingerprint(self) -> str:
        """Half of the SHA-256, for people who compare keys: nobody finds another key with the same 128 bits."""
        return hashlib.sha256(self._key.public_bytes(*_DER)).hexdigest()[:32]

    def signed(self, signature: bytes, statement: bytes) -> bool:
        """Whether the private half of this key made the signature."""
        try:
            self._key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    @property
    def _key(self) -> ec.EllipticCurvePublicKey:
        key = serialization.load_pem_public_key(self.pem.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - `read` and `of` take no other
        return key
