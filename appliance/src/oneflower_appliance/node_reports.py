"""What each node did in each round of a run, as its ServerApp saw it: the record's format, and its reader.

In the folder of a run, `reports-00001.jsonl` has a line of JSON for each round from round 1 on. The next file has the
name of its first round. A line has

- round: its number
- withheld: whether metrics and examples were left out, for privacy (docs/see-it.md says when)
- reports: a list with an entry for each node and phase, as `NodeReport.entry` writes it

A file is written in one step, and no longer changed when the next one begins. The line of a round is there before the
round's row in metrics.jsonl. `reports.part` has the training of a round that has a checkpoint and is not over.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oneflower_appliance.runs import GARBAGE, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

TRAIN, EVALUATE = "train", "evaluate"
UNFINISHED = "reports.part"
_FILE = re.compile(r"reports-(\d{5,})\.jsonl")
_DIGITS = 6  # of a number that is not an integer
_ENOUGH = 1 << 21  # bytes in an answer, about
_NUMBERS = ("examples", "seconds", "sent", "received")
_TEXTS = ("fault", "reason", "name", "partition")


@dataclass(frozen=True)
class NodeReport:
    """What one node did in one phase (train or evaluate) of a round. What is not known is None.

    `fault` is empty if the node did its part. Otherwise it is the kind of the fault, as in `runs.Fault`, and `reason`
    says why. `seconds` is the time from the sending of its message until its reply was there. `sent` and `received` are
    the bytes in the arrays of both. `metrics` are the numbers that it reported; `withheld` says that they and
    `examples` are left out for privacy. `node` is Flower's id; `name` and `partition` are of its machine, if known.
    """

    round: int
    node: str
    phase: str
    fault: str = ""
    reason: str = ""
    examples: int | float | None = None
    seconds: float | None = None
    sent: int | None = None
    received: int | None = None
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    withheld: bool = False
    name: str = ""
    partition: str = ""

    @property
    def entry(self) -> dict[str, Any]:
        """What is written of it. JSON has no NaN and no infinity, so these are texts."""
        known = {name: _written(value) for name in _NUMBERS if (value := getattr(self, name)) is not None}
        texts = {name: value for name in _TEXTS if (value := getattr(self, name))}
        metrics = {"metrics": {name: _written(value) for name, value in self.metrics.items()}} if self.metrics else {}
        return {"node": self.node, "phase": self.phase, **texts, **known, **metrics}

    @classmethod
    def parse(cls, number: int, said: Mapping[str, Any], *, withheld: bool = False) -> NodeReport:
        """Read what `entry` wrote in round `number`. Raises any of what reading garbage raises."""
        known: dict[str, Any] = {name: _read(said[name]) for name in _NUMBERS if name in said}
        texts: dict[str, Any] = {name: str(said[name]) for name in _TEXTS if name in said}
        metrics = {str(name): _read(value) for name, value in said.get("metrics", {}).items()}
        return cls(
            number, str(said["node"]), str(said["phase"]), **texts, **known, metrics=metrics, withheld=withheld
        )  # fmt: skip

    def of_machine(self, names: Mapping[str, str], partitions: Mapping[str, str]) -> NodeReport:
        """Return it with the name and the partition of its machine, which are given by Flower's ids."""
        return replace(self, name=names.get(self.node, ""), partition=partitions.get(self.node, ""))

    @property
    def line(self) -> str:
        """It alone in a line of JSON, as the client saves it."""
        return json.dumps({"round": self.round, **self.entry, "withheld": self.withheld})

    @classmethod
    def of_line(cls, line: str) -> NodeReport:
        """Read what `line` wrote. Raises `ValueError`."""
        try:
            said = json.loads(line)
            return cls.parse(int(said["round"]), said, withheld=bool(said["withheld"]))
        except GARBAGE as error:
            raise ValueError(f"not a report: {error!r}") from error

    @property
    def record(self) -> dict[str, Any]:
        """One flat dict, as pandas and csv take it; each metric has its name."""
        rest = {name: getattr(self, name) for name in ("name", "partition", "phase", "fault", "reason", *_NUMBERS)}
        return {"round": self.round, "node": self.node, **rest, **{f"metrics.{k}": v for k, v in self.metrics.items()}}


def write_line(number: int, reports: Iterable[NodeReport], *, withheld: bool) -> str:
    """Return the line of a round."""
    entries = [report.entry for report in reports]
    return json.dumps({"round": number, "withheld": withheld, "reports": entries}, separators=(",", ":"))


def read_line(line: str) -> list[NodeReport]:
    """Return the reports in the line of a round. Raises `ValueError` if it is not one: an app can write there, too."""
    try:
        said = json.loads(line)
        number, withheld = int(said["round"]), bool(said["withheld"])
        return [NodeReport.parse(number, entry, withheld=withheld) for entry in said["reports"]]
    except GARBAGE as error:
        raise ValueError(f"not a round's line: {error!r}") from error


def round_of(line: str) -> int:
    """Return the round of a line. Raises `ValueError` if it is not one."""
    try:
        return int(json.loads(line)["round"])
    except GARBAGE as error:
        raise ValueError(f"not a round's line: {error!r}") from error


def file_name(first: int) -> str:
    """Return the name of the file that begins with round `first`."""
    return f"reports-{first:05d}.jsonl"


def is_file(name: str) -> bool:
    """Whether a file in the folder of a run has this record's lines."""
    return name == UNFINISHED or _FILE.fullmatch(name) is not None


def files(folder: Path) -> list[tuple[int, Path]]:
    """Return the files in the folder of a run, each with its first round, in order."""
    found = [(match, path) for path in folder.glob("reports-*.jsonl") if (match := _FILE.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def lines_after(folder: Path, number: int = 0) -> Iterator[str]:
    """Yield the lines of the rounds after round `number`. What cannot be read is left out."""
    found = files(folder)
    for index, (_, path) in enumerate(found):
        if index + 1 < len(found) and found[index + 1][0] <= number + 1:
            continue  # it has earlier rounds only
        with suppress(OSError):
            yield from (line for line in lines_of(path) if _is_after(line, number))


def _is_after(line: str, number: int) -> bool:
    try:
        return round_of(line) > number
    except ValueError:
        return False


def some_after(folder: Path, number: int) -> list[str]:
    """Return the lines of the next rounds after round `number`: some of them if there are many."""
    found: list[str] = []
    size = 0
    for line in lines_after(folder, number):
        found.append(line)
        size += len(line)
        if size >= _ENOUGH:
            break
    return found


def _written(value: float | None) -> int | float | str | None:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)


def _read(value: Any) -> int | float:
    return value if isinstance(value, int | float) else float(value)
