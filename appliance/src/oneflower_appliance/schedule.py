"""What a SuperLink's schedule has started, what came of it, and which result is the model of the federation.

Its agent keeps all of it on disk (`text`) and publishes the newest part (`published`), which the client reads. Times
are RFC 3339, to the second, in the zone of the schedule.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from oneflower_appliance.run_state import COMPLETED
from oneflower_appliance.runs import GARBAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "schedule.json"  # in the appliance's folder
KEPT = 500  # results on disk, by which a time is recognised after the clock went back
_ON_TIME = timedelta(minutes=1)
SHOWN = 5  # results that are published


@dataclass(frozen=True)
class Result:
    """A run that the form started, the `number`-th; at its `planned` time, or without one when the federation began.

    `run` is empty as long as it is not known whether the run was started: `newest` was then the newest run. `last` is
    the run that resumed it last. `outcome` is empty until it has ended; `value` is that of the usual `metric` after its
    last round. `why_not` says why it is not the model.
    """

    number: int
    planned: str = ""
    begun: str = ""
    newest: str = ""
    run: str = ""
    last: str = ""
    outcome: str = ""
    metric: str = ""
    value: float | None = None
    why_not: str = ""

    @property
    def sentence(self) -> str:
        """What came of it."""
        late = f", begun {self.begun}" if not self.on_time else ""
        when = f"planned for {self.planned}{late}" if self.planned else "when the federation began"
        how = self.outcome or "is going"
        value = f", {self.metric} {self.value:.4g}" if self.value is not None else ""
        why = f". It is not the model: {self.why_not}" if self.outcome == COMPLETED and self.why_not else ""
        return f"Result {self.number}, {when}: run {self.last or self.run or '-'} {how}{value}{why or self._failure}"

    @property
    def _failure(self) -> str:
        return f": {self.why_not}" if self.why_not else ""

    @property
    def on_time(self) -> bool:
        """Whether it was begun within a minute of its planned time."""
        try:
            late = datetime.fromisoformat(self.begun) - datetime.fromisoformat(self.planned)
        except (TypeError, ValueError):  # a SuperLink may say anything
            return True
        return late < _ON_TIME


@dataclass(frozen=True)
class Schedule:
    """The schedule of a SuperLink. All times up to `looked` are settled: a run was started, or they were missed.

    `missed` times since the last run that began on time, the last of them `last_missed`. `waiting` says why a run that
    is due has not begun. `following` is the next planned time. The `model` is that run's; `best` is the best value of
    `metric` of any result, which run `best_run` has.
    """

    looked: str = ""
    following: str = ""
    waiting: str = ""
    missed: int = 0
    last_missed: str = ""
    model: str = ""
    metric: str = ""
    best: float | None = None
    best_run: str = ""
    results: tuple[Result, ...] = ()

    @property
    def text(self) -> str:
        """What `parse` reads, with the newest results."""
        return json.dumps(asdict(replace(self, results=self.results[-KEPT:])))

    @property
    def published(self) -> str:
        """What a SuperLink publishes of it."""
        return replace(self, results=self.results[-SHOWN:]).text

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `text` wrote. Raises one of `GARBAGE`."""
        said = json.loads(text)
        planned = [one.get("planned") for one in said.get("results", ())]
        for when in (said.get("looked"), said.get("following"), *planned):
            if when and datetime.fromisoformat(when).tzinfo is None:
                raise ValueError(when)
        results = tuple(Result(**_known(Result, entry)) for entry in said.pop("results", ()))
        return cls(**_known(cls, said), results=results)

    @classmethod
    def recall(cls, published: str) -> Schedule | None:
        """Read what a SuperLink published. None if there is nothing, or it cannot be read."""
        try:
            return cls.parse(published) if published else None
        except GARBAGE:
            return None

    @property
    def troubles(self) -> list[str]:
        """What an operator should know: times that were missed, and a run that has not begun."""
        found = []
        if self.missed:
            times = "One planned time was" if self.missed == 1 else f"{self.missed} planned times were"
            found.append(
                f"Schedule: {times} missed, the last {self.last_missed}: the machine was off, or a run was going."
            )
        return [*found, *([f"Schedule: {self.waiting}"] if self.waiting else [])]

    @property
    def lines(self) -> list[str]:
        """How it stands, for people."""
        of_model = next((f", result {one.number}" for one in self.results if self.model in (one.run, one.last)), "")
        model = f" The model is that of run {self.model}{of_model}." if self.model else ""
        return [f"Next run {self.following}.{model}", *[one.sentence for one in reversed(self.results)]]


def _known(kind: type[Schedule | Result], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that this release knows, each of its type. Raises `TypeError` or `ValueError`."""
    found = {}
    for field in fields(kind):
        if field.name in said and field.name != "results":
            value = said[field.name]
            numbers = {"int": int, "float | None": float}.get(str(field.type), str)
            found[field.name] = None if value is None and "None" in str(field.type) else numbers(value)
    return found
