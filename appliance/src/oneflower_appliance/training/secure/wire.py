"""What the messages of secure aggregation are called, at both ends, and the rule for its threshold."""

from __future__ import annotations

import hashlib
from enum import StrEnum

RECORD = "secure-aggregation"  # the ConfigRecord of each message
MASKED = "masked"  # the ArrayRecord of a masked update
VECTOR = "vector"  # its only array
LEAST_NODES = 3


class Stage(StrEnum):
    """The exchanges of a round, in their order."""

    SETUP = "setup"
    SHARE = "share"
    COLLECT = "collect"
    UNMASK = "unmask"


def threshold_of(share: float, nodes: int) -> int:
    """Return how many of the nodes must be there until the end: a share, and always more than half.

    With half of them, a server could learn both secrets of a node by telling two halves of the nodes different things.
    """
    return min(nodes, max(nodes // 2 + 1, -int(-round(share * nodes, 9) // 1)))


def commitment(session: bytes, seed: bytes) -> bytes:
    """Return what a node says of the seed of its own mask, so that wrong shares of it are noticed."""
    return hashlib.sha256(b"oneflower secure aggregation" + session + seed).digest()
