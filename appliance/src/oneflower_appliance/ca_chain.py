"""The certificates of a SuperLink's CA, oldest first, and how who trusts an older one follows to a later one.

A CA that was replaced signed the next one: behind it come a *link*, which is the next CA's certificate signed by it,
and the certificate that the next CA signed itself. Who knows any of them trusts those behind it, and nothing else.
"""

from __future__ import annotations

from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from oneflower_appliance.errors import ExitCode, OneflowerError


def load(pem: bytes, source: str) -> list[x509.Certificate]:
    """Return the certificates of a file. Raises `OneflowerError`, which names `source`."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise OneflowerError(
            f"{source} holds no PEM certificate that can be read.", "Give a PEM file, as it is or as base64."
        ) from error


def dump(certificates: list[x509.Certificate]) -> bytes:
    """Return the certificates as PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate (DER), in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed a certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def newest(pem: bytes, source: str) -> x509.Certificate:
    """Return the last CA that signed itself, of those that follow from the first one. Raises `OneflowerError`."""
    chain = _followed(load(pem, source))
    return next((one for one in reversed(chain) if signed(one, one)), chain[0])


def replaced(certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    """Return those of a file whose place another one has taken: the next one, of the same name and signed by it."""
    return [
        before for before, after in pairwise(certificates) if before.subject == after.subject and signed(after, before)
    ]


def follow_pin(pem: bytes, pin: str, source: str) -> bytes:
    """Return those of a SuperLink's CA certificates that may be trusted by who knows one: from that one on.

    `pin` is the fingerprint of the known one. Each later one must be signed by the one before it. Raises
    `OneflowerError` if there is no such certificate.
    """
    chain = load(pem, source)
    first = next((place for place, one in enumerate(chain) if fingerprint(one) == pin), None)
    if first is None:
        raise OneflowerError(
            f"{source} is not the one that the invitation names. Somebody may stand between, so nothing was sent.",
            "Check the address in the invitation. If that SuperLink's machine was created again, ask for another "
            "invitation.",
            ExitCode.CONFLICT,
        )
    return dump(_followed(chain[first:]))


def continues(before: bytes, after: bytes) -> bool:
    """Whether who trusts all of `before` may trust all of `after`: it has nothing that does not follow from that."""
    try:
        known, now = load(before, "the known one"), load(after, "the new one")
    except OneflowerError:
        return False
    last = next((place for place, one in enumerate(now) if one == known[-1]), None)
    return last is not None and all(one in known for one in now[:last]) and _followed(now[last:]) == now[last:]


def _followed(chain: list[x509.Certificate]) -> list[x509.Certificate]:
    trusted = chain[:1]
    for certificate in chain[1:]:
        if not signed(certificate, trusted[-1]) or not _is_ca(certificate):
            break
        trusted.append(certificate)
    return trusted


def _is_ca(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others. One of a server may not, though the same CA signed it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False
