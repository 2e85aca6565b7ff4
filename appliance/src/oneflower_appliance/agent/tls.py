"""The certificates of a SuperLink: made at boot, or given. In both cases the chain is checked before Flower sees them.

Certificates that were made here are in one file with their key. So both are replaced in one step, and a server that
reads them again never sees a key with another certificate.

The CA's key and the server's key never leave the machine and are readable by their owner only; only `ca.crt` is
published. The CA is kept (`authority.py`), so that SuperNodes keep trusting a SuperLink that restarted or has a new
certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from oneflower_appliance.agent.authority import CA, SKEW, USUAL, Authority, Lifetimes, half_life, private_pem, subject
from oneflower_appliance.ca_chain import dump, load, replaced
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.formats import read_pem
from oneflower_appliance.orders import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CLOCK = "Check the clocks of this machine and of the SuperLink's: virtual machines need NTP. It is tried again."

Name = tuple[str, str]


@dataclass(frozen=True)
class Ends:
    """When the server certificate and its CA expire, when half of their lives is over, and when both are valid."""

    server: datetime.datetime
    ca: datetime.datetime
    begin: datetime.datetime
    half_of_server: datetime.datetime
    half_of_ca: datetime.datetime

    @classmethod
    def of(cls, certificates: CertificateFiles) -> Ends:
        """Read them. Raises `OneflowerError` when a file cannot be read."""
        try:
            server, ca = (path.read_bytes() for path in (certificates.certificate, certificates.ca))
        except OSError as error:
            raise OneflowerError(f"A certificate cannot be read: {error}.", "Restart this machine.") from error
        own = load(server, str(certificates.certificate))[0]
        authorities = load(ca, str(certificates.ca))
        counting = [one for one in authorities if one not in replaced(authorities)]
        return cls(
            own.not_valid_after_utc,
            min(found.not_valid_after_utc for found in counting),
            max(found.not_valid_before_utc for found in (own, *counting)),
            half_life(own),
            half_life(authorities[-1]),
        )

    def check(self, now: datetime.datetime) -> None:
        """Raise `OneflowerError` if they are not valid yet: then the clock is wrong, or was when they were made."""
        if now < self.begin:
            raise OneflowerError(
                f"The clock of this machine says {now:%Y-%m-%d %H:%M} UTC, and its certificates are valid from "
                f"{self.begin:%Y-%m-%d %H:%M} on.",
                CLOCK,
                ExitCode.ENVIRONMENT,
            )

    @property
    def first(self) -> datetime.datetime:
        """When the first of them expires."""
        return min(self.server, self.ca)

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether half of the server certificate's life is over, and another from the same CA would last longer."""
        return now >= self.half_of_server and self.server < self.ca

    def is_due_to_follow(self, now: datetime.datetime) -> bool:
        """Whether half of the CA's life is over, so that another one is to follow it, and it can still sign that."""
        return self.half_of_ca <= now < self.ca


def current_time() -> datetime.datetime:
    """Return the current time, against which certificates are checked."""
    return datetime.datetime.now(datetime.UTC)


def make_certificates(
    folder: Path, names: Sequence[Name], now: datetime.datetime | None = None, lifetimes: Lifetimes = USUAL
) -> CertificateFiles:
    """Return a server certificate for `names`, signed by a CA of this machine. Make what `folder` does not have.

    A certificate of whose life half is over, or that is not valid yet, is replaced, by the same CA. Raises
    `OneflowerError` when the CA is not valid by the clock: who trusts it would not trust another.
    """
    server = folder / "server.pem"
    paths = CertificateFiles(folder / CA, server, server)
    now = now or current_time()
    if _still_fits(paths, names, now):
        return paths
    authority = Authority.of(folder, now, lifetimes.ca)
    ca_certificate, ca_key = authority.certificate, authority.key
    _check_time(ca_certificate, str(paths.ca), now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject("oneflower SuperLink"))
        .issuer_name(ca_certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(now + lifetimes.server, ca_certificate.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_atomic(server, dump([certificate]) + authority.links + private_pem(key))
    return paths


def forget_ca_of_later(folder: Path, now: datetime.datetime) -> None:
    """Remove a CA that is not valid yet: the clock was ahead when it was made. Call it only where nobody trusts it."""
    path = folder / CA
    try:
        begin = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc
    except (OSError, ValueError):
        return
    if now < begin:
        path.unlink()


def use_certificates(folder: Path, ca: str, certificate: str, key: str) -> CertificateFiles:
    """Write the given PEMs (raw or base64) to `folder` after checking that they belong together.

    Raises `OneflowerError` if one cannot be read, has expired, is not signed by the CA, or the key does not fit.
    """
    ca_pem, certificate_pem, key_pem = (read_pem(text) for text in (ca, certificate, key))
    authorities = load(ca_pem, "FL_SSL_CA_CERTFILE")
    chain = load(certificate_pem, "FL_SSL_CERTFILE")
    private = _load_key(key_pem)
    _check_chain(chain, authorities)
    if _public_der(private) != chain[0].public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ):
        raise OneflowerError(
            "FL_SSL_KEYFILE is not the private key of FL_SSL_CERTFILE.",
            "Give the key that the certificate was made with.",
        )
    paths = CertificateFiles(folder / CA, folder / "server.crt", folder / "server.key")
    write_atomic(paths.key, key_pem)
    write_atomic(paths.certificate, certificate_pem, SHARED)
    write_atomic(paths.ca, ca_pem, SHARED)
    return paths


def check_ca(pem: bytes, source: str) -> None:
    """Check that the certificates in `pem` are valid now. Raises `OneflowerError` naming `source`.

    One that another has replaced may have expired: nobody is trusted by it then.
    """
    certificates = load(pem, source)
    before = replaced(certificates)
    for certificate in certificates:
        if certificate not in before:
            _check_time(certificate, source, current_time())


def _check_chain(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> None:
    for certificate in chain:
        _check_time(certificate, "FL_SSL_CERTFILE", current_time())
    for authority in authorities:
        _check_time(authority, "FL_SSL_CA_CERTFILE", current_time())
    current = chain[0]
    for candidate in (*chain[1:], *authorities):
        if current.issuer != candidate.subject:
            continue
        try:
            current.verify_directly_issued_by(candidate)
        except (InvalidSignature, ValueError, TypeError):
            continue
        if candidate in authorities:
            return
        current = candidate
    raise OneflowerError(
        "FL_SSL_CERTFILE is not signed by FL_SSL_CA_CERTFILE.",
        "Give the CA that issued the certificate; put intermediate certificates behind it in FL_SSL_CERTFILE.",
    )


def _check_time(certificate: x509.Certificate, source: str, now: datetime.datetime) -> None:
    if now >= certificate.not_valid_after_utc:
        problem = f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        hint = f"Give one that is valid now. {CLOCK}"
    elif now < certificate.not_valid_before_utc:
        problem, hint = f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", CLOCK
    else:
        return
    raise OneflowerError(
        f"The certificate in {source} {problem}, and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC.",
        hint,
        ExitCode.ENVIRONMENT,
    )


def _still_fits(paths: CertificateFiles, names: Sequence[Name], now: datetime.datetime) -> bool:
    try:
        authorities = x509.load_pem_x509_certificates(paths.ca.read_bytes())
        certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
        key = serialization.load_pem_private_key(paths.key.read_bytes(), None)
        certificate.verify_directly_issued_by(authorities[-1])
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        not Ends.of(paths).is_due(now)
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
        and {_general_name(name) for name in names} <= set(held)
        and key.public_key() == certificate.public_key()
    )


def _general_name(name: Name) -> x509.GeneralName:
    kind, value = name
    return x509.IPAddress(ipaddress.ip_address(value)) if kind == "IP" else x509.DNSName(value)


def _public_der(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load_key(pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise OneflowerError(
            "FL_SSL_KEYFILE holds no unencrypted PEM private key that can be read.",
            "Give a PEM key without a passphrase, as it is or as base64.",
        ) from error
