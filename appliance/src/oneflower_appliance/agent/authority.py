"""The CA that a SuperLink makes for itself, keeps, and replaces by another one that it signs.

The private key and the chain are two files. So a new key is written first, beside the old one: after a crash between
the two, the key that fits the chain is found, and nobody who trusts the CA is left behind.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from oneflower_appliance.ca_chain import dump, signed
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.formats import read_duration

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.values import Settings

YEAR = datetime.timedelta(days=365)
SKEW = datetime.timedelta(hours=24)
TLS_FOLDER = "tls"  # in the home of a machine
CA, _KEY, _NEXT_KEY = "ca.crt", "ca.key", "ca-next.key"


@dataclass(frozen=True)
class Lifetimes:
    """How long what is made here is valid: a CA, and a server certificate."""

    ca: datetime.timedelta = 10 * YEAR
    server: datetime.timedelta = 2 * YEAR

    @classmethod
    def of(cls, settings: Settings) -> Lifetimes:
        """Return those of a SuperLink's settings."""
        texts = (settings.text("FL_CA_LIFETIME"), settings.text("FL_CERT_LIFETIME"))
        return cls(*(datetime.timedelta(seconds=read_duration(text)) for text in texts))


USUAL = Lifetimes()


def half_life(certificate: x509.Certificate) -> datetime.datetime:
    """Return when half of the life of a certificate that was made here is over."""
    made, end = certificate.not_valid_before_utc + SKEW, certificate.not_valid_after_utc
    return made + (end - made) / 2


@dataclass(frozen=True)
class Authority:
    """A CA. `chain` has those that it replaced, too, oldest first; `key` is that of the last one."""

    chain: list[x509.Certificate]
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate(self) -> x509.Certificate:
        """The one that signs."""
        return self.chain[-1]

    @property
    def links(self) -> bytes:
        """What a server shows beside its own certificate, in PEM: how an older CA leads to this one."""
        return dump([one for one in reversed(self.chain) if not signed(one, one)])

    @classmethod
    def of(cls, folder: Path, now: datetime.datetime, life: datetime.timedelta) -> Authority:
        """Return the CA in `folder`. If there is none that can be used, make one. Raises `OneflowerError`."""
        return _kept(folder) or _made(folder, now, life)


def replace_authority(folder: Path, now: datetime.datetime, lifetimes: Lifetimes = USUAL) -> None:
    """Replace the CA in `folder` by another one, which it signs. Raises `OneflowerError`."""
    old, key = _kept(folder), ec.generate_private_key(ec.SECP256R1())
    if old is None:
        raise OneflowerError(
            "The CA of this SuperLink, or its key, cannot be read.", "Restart its machine.", ExitCode.ENVIRONMENT
        )
    if now >= old.certificate.not_valid_after_utc:
        raise OneflowerError(
            "The CA of this SuperLink has expired, so nobody would trust another that it signs.",
            "Deploy the federation again.",
            ExitCode.CONFLICT,
        )
    end = now + lifetimes.ca
    link = _certificate(key, old.key, now, min(end, old.certificate.not_valid_after_utc))
    known = [one for one in old.chain if now < one.not_valid_after_utc]
    write_atomic(folder / _NEXT_KEY, private_pem(key))
    write_atomic(folder / CA, dump([*known, link, _certificate(key, key, now, end)]), SHARED)
    (folder / _NEXT_KEY).replace(folder / _KEY)


def _kept(folder: Path) -> Authority | None:
    try:
        chain = x509.load_pem_x509_certificates((folder / CA).read_bytes())
    except (OSError, ValueError):
        return None
    for path in (folder / _KEY, folder / _NEXT_KEY):
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            continue
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == chain[-1].public_key():
            path.replace(folder / _KEY)
            return Authority(chain, key)
    return None


def _made(folder: Path, now: datetime.datetime, life: datetime.timedelta) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = [_certificate(key, key, now, now + life)]
    write_atomic(folder / _KEY, private_pem(key))
    write_atomic(folder / CA, dump(chain), SHARED)
    return Authority(chain, key)


def _certificate(
    key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, now: datetime.datetime, end: datetime.datetime
) -> x509.Certificate:
    """Return the certificate of a CA. All have one name, so a link does not count as an intermediate CA (RFC 5280)."""
    name = subject("oneflower federation CA")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, hashes.SHA256())
    )


_USAGE = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def subject(name: str) -> x509.Name:
    """Return a name for a certificate."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM, without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
