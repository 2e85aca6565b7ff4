"""An invitation: one line of text with which the machines of another site ask to join a federation.

It names the one door of the SuperLink and the CA to trust it by, so that nobody can stand between. The secret in it is
the private key of the invitation. It is never sent: a machine signs with it, and the SuperLink has the public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import split_address

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SITE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
SITE_NAMES = "at most 32 small letters, digits and '-', with a letter or digit at both ends"
MOST_NODES = 1000
_KIND = "oneflower-invitation-1"
_TEXT = re.compile(rf"{_KIND}\.([A-Za-z0-9_-]{{1,2000}})\.([0-9a-f]{{8}})")
_HEX = re.compile(r"[0-9a-f]+")
_SECRET = 32


def is_site_name(name: str) -> bool:
    """Whether a site may be called so."""
    return bool(SITE_NAME.fullmatch(name))


@dataclass(frozen=True)
class Invitation:
    """An invitation for `nodes` SuperNodes of a site. `ca` is the SHA-256 of the CA's certificate (DER), in hex."""

    site: str
    nodes: int
    endpoint: str
    ca: str
    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def make(cls, site: str, nodes: int, endpoint: str, ca: str) -> Invitation:
        """Return a new one, with a secret of its own."""
        return cls(site, nodes, endpoint, ca, secrets.token_hex(16), secrets.token_bytes(_SECRET))

    def text(self) -> str:
        """Return it as one line that a URL may hold, too."""
        secret = base64.b64encode(self.secret).decode()
        said = json.dumps([self.site, self.nodes, self.endpoint, self.ca, self.id, secret], separators=(",", ":"))
        coded = base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")
        return f"{_KIND}.{coded}.{_digest(coded)}"

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read what `text` wrote. Raises `OneflowerError`, which never shows the text."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise _invalid("it does not look like one")
        if _digest(found[1]) != found[2]:
            raise _invalid("a part of it is missing or changed")
        try:
            said = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
            site, nodes, endpoint, ca, number, secret = said
            made = cls(str(site), int(nodes), str(endpoint), str(ca), str(number), base64.b64decode(str(secret)))
            split_address(made.endpoint)
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise _invalid("what it says cannot be read") from error
        lengths = [len(made.ca), len(made.id), len(made.secret)]
        if lengths != [64, 32, _SECRET] or not _HEX.fullmatch(made.ca + made.id) or not is_site_name(made.site):
            raise _invalid("what it says cannot be read")
        if not 1 <= made.nodes <= MOST_NODES:
            raise _invalid(f"it is for {made.nodes} nodes, and not for 1 to {MOST_NODES}")
        return made

    @property
    def verifier(self) -> str:
        """The public key of the invitation, in hex: what the SuperLink keeps."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, statement: bytes) -> bytes:
        """Return a signature that `signed_by` accepts."""
        return self._private.sign(statement)

    @property
    def _private(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - --help need not spend the time

        return ed25519.Ed25519PrivateKey.from_private_bytes(self.secret)


def signed_by(verifier: str, signature: bytes, statement: bytes) -> bool:
    """Whether a signature was made with the invitation whose public key is `verifier`."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(verifier)).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def _digest(coded: str) -> str:
    return hashlib.sha256(coded.encode()).hexdigest()[:8]


def _invalid(why: str) -> OneflowerError:
    return OneflowerError(
        f"This is not a valid invitation: {why}.",
        "Take the whole line that `oneflower invite` printed, or ask for another one.",
        ExitCode.INVALID_INPUT,
    )
