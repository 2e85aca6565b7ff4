"""Which SuperNodes a SuperLink has admitted.

The SuperLink's agent registers the key of each node of its own service and publishes the result as the attribute
FL_NODES of its VM: `vm:node-id:fingerprint` triples separated by spaces, or `-` if there are none. A SuperNode starts
Flower when it finds itself there with its key. Refused nodes are in FL_REFUSED, see `refusals`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower_appliance.attributes import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT = re.compile(r"\d+:\d+:[0-9a-f]+( \d+:\d+:[0-9a-f]+)*")


@dataclass(frozen=True)
class Member:
    """An admitted node: Flower's id for it, and the fingerprint of its key."""

    node_id: str
    key: str


@dataclass(frozen=True)
class Roster:
    """The members by VM id."""

    members: Mapping[int, Member] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(f"{vm}:{member.node_id}:{member.key}" for vm, member in self.members.items()) or NOTHING

    @classmethod
    def parse(cls, text: str) -> Roster:
        """Read what `str` wrote. Raises `ValueError`."""
        if text == NOTHING:
            return cls()
        if not _TEXT.fullmatch(text):
            raise ValueError(text)
        triples = (triple.split(":") for triple in text.split(" "))
        return cls({int(vm): Member(node_id, key) for vm, node_id, key in triples})

    @classmethod
    def recall(cls, text: str) -> Roster:
        """Read a published roster; a missing or unreadable one is empty."""
        try:
            return cls.parse(text)
        except ValueError:
            return cls()
