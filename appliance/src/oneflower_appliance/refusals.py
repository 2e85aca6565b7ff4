"""Which SuperNodes a SuperLink has refused, and why.

Its agent publishes them as the attribute FL_REFUSED of its VM: `vm:fingerprint:reason` triples separated by spaces, or
`-`. A SuperNode that finds its key there may have to make another key; `oneflower show` says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from oneflower_appliance.attributes import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Reason(StrEnum):
    """Why a key was refused."""

    SPENT = "spent"
    TAKEN = "taken"
    HELD = "held"
    INVALID = "invalid"
    MANY = "many"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """The reason, in words that follow the name of the VM."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.SPENT: "its key was unregistered before, and Flower never takes a key twice; the node makes another.",
    Reason.TAKEN: "it published a key that belongs to another VM of this federation.",
    Reason.HELD: "it published another key while its node is online with the one it had.",
    Reason.INVALID: "it published a key that is not valid: base64 of a PEM, elliptic curve P-256, P-384 or P-521.",
    Reason.MANY: "it has changed its key too often. Replace the VM: terminate it, and OneFlow boots another.",
    Reason.UNKNOWN: "Flower does not take its key; see the SuperLink's log.",
}


@dataclass(frozen=True)
class Refusals:
    """The refused keys by VM id: the key's fingerprint (empty where it is not valid), and why."""

    of: Mapping[int, tuple[str, Reason]] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(f"{vm}:{key}:{reason}" for vm, (key, reason) in self.of.items()) or NOTHING

    @classmethod
    def recall(cls, text: str) -> Refusals:
        """Read what `str` wrote; what cannot be read is left out."""
        found = re.findall(rf"(?:^| )([0-9]{{1,20}}):([0-9a-f]*):({'|'.join(Reason)})(?= |$)", text)
        return cls({int(vm): (key, Reason(reason)) for vm, key, reason in found})
