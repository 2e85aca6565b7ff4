"""A run as a SuperLink's own API describes it.

Flower's process writes it (`entry`), and the agent and the client read it (`parse`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FINISHED = "finished"
COMPLETED, FAILED, STOPPED = "completed", "failed", "stopped"


@dataclass(frozen=True)
class RunState:
    """A run. `status` and `sub_status` are Flower's: a run that is finished is completed, failed or stopped.

    A `lost` run ended because a process of Flower died; `why_lost` says which. The run `resumed_as` resumes it, or
    `given_up` says why no run does. `trouble` is what is wrong on the SuperLink's machine. `waiting` says
    that it waits for nodes, with what to do. `app_hash` is the SHA-256 of the app's bundle.
    """

    id: str
    app: str = ""
    status: str = ""
    sub_status: str = ""
    details: str = ""
    lost: bool = False
    why_lost: str = ""
    given_up: str = ""
    resumed_as: str = ""
    attempt: int = 1
    trouble: str = ""
    waiting: str = ""
    app_hash: str = ""

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> RunState:
        """Read what `entry` wrote, in this or another release. Raises `KeyError` or `ValueError`."""
        known = {field.name: said[field.name] for field in fields(cls) if field.name in said}
        texts = {name: str(value) for name, value in known.items() if name not in ("lost", "attempt")}
        return cls(texts.pop("id"), **texts, lost=known.get("lost") == "YES", attempt=int(known.get("attempt", 1)))

    @property
    def entry(self) -> dict[str, Any]:
        """What `parse` reads, as data for JSON."""
        return asdict(self) | {"lost": "YES" if self.lost else "NO"}

    @property
    def finished(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.status == FINISHED

    @property
    def outcome(self) -> str:
        """How it ended, or what it is doing."""
        return self.sub_status or self.status
