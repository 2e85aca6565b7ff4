"""A SuperNode as a SuperLink's own API describes it.

Flower's process writes it (`entry`), and the agent and the client read it (`parse`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTERED, ONLINE, OFFLINE, UNREGISTERED = "registered", "online", "offline", "unregistered"


@dataclass(frozen=True)
class NodeState:
    """A SuperNode. `status` is Flower's: registered, online, offline or unregistered.

    `name` is the one that it was registered with: SITE/NUMBER if it is of another site, and otherwise empty.
    """

    id: str
    status: str
    name: str = ""

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> NodeState:
        """Read what `entry` wrote, in this or another release. Raises `KeyError`."""
        return cls(str(said["id"]), str(said["status"]), str(said.get("name", "")))

    @property
    def entry(self) -> dict[str, str]:
        """What `parse` reads, as data for JSON."""
        return asdict(self)

    @property
    def online(self) -> bool:
        """Whether the SuperLink hears from it."""
        return self.status == ONLINE
