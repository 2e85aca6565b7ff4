"""What happens while somebody waits, as values that a program can tell apart. Each is also a line of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oneflower_appliance.round_state import RoundState


@dataclass(frozen=True)
class Step:
    """A step starts, which takes a while. The step before it has ended well."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class StepEnded:
    """The current step has ended, before another one starts."""

    well: bool = True

    def __str__(self) -> str:
        return "done" if self.well else "failed"


@dataclass(frozen=True)
class Note:
    """Something that a person should know."""

    text: str

    def __str__(self) -> str:
        return f"Note: {self.text}"


@dataclass(frozen=True)
class RunBegan:
    """A run starts; its rounds follow."""

    run: str
    app_hash: str = ""  # SHA-256 of the app's bundle

    def __str__(self) -> str:
        return f"run {self.run}"


@dataclass(frozen=True)
class Exchanged:
    """An app without a strategy has sent messages to nodes, or some were answered: how many, so far."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class InRound:
    """What a run does now: a phase of a round has begun, or nodes have answered. At most two come in a second."""

    state: RoundState

    def __str__(self) -> str:
        said = self.state
        return ", ".join(
            filter(None, (said.heading, said.doing(said.seconds), said.count, said.waited_for(said.seconds)))
        )


@dataclass(frozen=True)
class ConsoleLine:
    """A line of the console of a machine that failed."""

    machine: str
    text: str

    def __str__(self) -> str:
        return f"{self.machine} | {self.text}"


Event = Step | StepEnded | Note | RunBegan | Exchanged | InRound | ConsoleLine
Notify = Callable[[Event], None]


def ignore(_: object) -> None:
    """Receive something and do nothing."""
