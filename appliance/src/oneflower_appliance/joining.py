"""What a machine of another site sends to the SuperLink to join, and what it is answered. Both sides use this.

A request is signed twice: with the invitation, which shows that its sender was invited, and with the node's own key,
which shows that the key is the sender's. It holds no secret, and who sends it again learns only what is known already.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from oneflower_appliance.checks import known_topics
from oneflower_appliance.invitation import signed_by
from oneflower_appliance.public_key import PublicKey

JOIN_PATH, CA_PATH = "/oneflower/join", "/oneflower/ca"
LARGEST = 8 * 1024  # bytes of a request
_STATEMENT = b"oneflower: this key asks to join\n"


class Standing(StrEnum):
    """How a node of a site stands with the SuperLink."""

    ASKED = "asked"
    APPROVED = "approved"
    SUSPENDED = "suspended"
    REFUSED = "refused"


class Reason(StrEnum):
    """Why a key is refused."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    USED = "used"
    REMOVED = "removed"
    TAKEN = "taken"
    INVALID = "invalid"
    BUSY = "busy"

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do, for the site's operator."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.UNKNOWN: "This invitation is not known there, or was revoked. Ask the coordinator for another one.",
    Reason.EXPIRED: "This invitation has expired. Ask the coordinator for another one.",
    Reason.USED: "As many machines as it is for have used this invitation. If one was replaced, the new one is heard "
    "when the old one is offline. For more machines, ask the coordinator for another invitation.",
    Reason.REMOVED: "The coordinator removed or refused this machine's key. To come back it needs another key: replace "
    "the machine, and have the coordinator approve it.",
    Reason.TAKEN: "This machine's key belongs to another node of that federation. Replace the machine: a disk that was "
    "copied holds the key of another one.",
    Reason.INVALID: "The request is not valid. The releases of oneflower here and there may not fit.",
    Reason.BUSY: "Too many machines ask at the same moment.",
}


@dataclass(frozen=True)
class JoinRequest:
    """A request to join: the invitation's id, the node's public key, and both signatures (base64).

    `troubles` are the topics of what the node found not in order; what exactly stays at the site.
    """

    invitation: str
    key: str
    invited: str
    owned: str
    troubles: tuple[str, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> JoinRequest:
        """Read what `body` wrote. Raises `ValueError`."""
        try:
            said = json.loads(body)
            values = {name: said[name] for name in ("invitation", "key", "invited", "owned")}
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("a field is missing") from error
        if not all(isinstance(value, str) for value in values.values()):
            raise ValueError("a field is not a text")
        told = said.get("troubles", [])
        return cls(**values, troubles=known_topics(told if isinstance(told, list) else []))

    @property
    def body(self) -> bytes:
        """What `parse` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def make(cls, invitation: str, key: PublicKey, invited: bytes, owned: bytes) -> JoinRequest:
        """Return the request of a node, from the signatures of its `statement`."""
        return cls(invitation, key.published, b64encode(invited).decode(), b64encode(owned).decode())

    def is_invited(self, verifier: str) -> bool:
        """Whether the invitation with this public key signed it."""
        return signed_by(verifier, _decoded(self.invited), self._statement)

    def owner(self) -> PublicKey | None:
        """Return the key that asks, if the sender has its private half."""
        try:
            key = PublicKey.read(self.key)
        except ValueError:
            return None
        return key if key.signed(_decoded(self.owned), self._statement) else None

    @property
    def _statement(self) -> bytes:
        return statement(self.invitation, self.key)


def statement(invitation: str, published: str) -> bytes:
    """Return what is signed: that this key asks to join by this invitation."""
    return _STATEMENT + f"{invitation}\n{published}\n".encode()


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""


@dataclass(frozen=True)
class JoinAnswer:
    """What the SuperLink says to a key: its standing, and if it is known, its place in the site.

    `name` is SITE/NUMBER. `site` counts the sites, from 1, and `nodes` the nodes of this one.
    """

    standing: Standing
    reason: Reason | None = None
    name: str = ""
    number: int = 0
    nodes: int = 0
    site: int = 0

    @classmethod
    def refused(cls, reason: Reason) -> JoinAnswer:
        """Return a refusal."""
        return cls(Standing.REFUSED, reason)

    @property
    def entry(self) -> dict[str, Any]:
        """What `parse` reads, as data for JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, said: Any) -> JoinAnswer:
        """Read what `entry` wrote. Raises `ValueError`."""
        try:
            reason = Reason(said["reason"]) if said["reason"] else None
            numbers = (int(said["number"]), int(said["nodes"]), int(said["site"]))
            return cls(Standing(said["standing"]), reason, str(said["name"]), *numbers)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an answer: {error!r}") from error
