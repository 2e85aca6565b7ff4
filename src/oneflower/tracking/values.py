"""What is sent of a run: numbers of rounds and nodes, and the settings, under names that the tools accept."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from oneflower_appliance.runs import ACROSS, SOURCES, is_number, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from oneflower.cloud import RunResult
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.runs import RunRow

T = TypeVar("T")
_OF_ROUND = ("loss", "accuracy", "train_loss", "seconds", "nodes", "failures")
_OF_NODE = ("examples", "seconds", "sent", "received")
_LOGIN = re.compile(r"//[^/\s]*@")
_LATEST = 1 << 40  # seconds, more than any clock says
_SAFE = re.compile(r"[^\w.\- ]")


def of_round(row: RunRow) -> dict[str, float]:
    """Return the numbers of a round by name, those of its evaluations as `evaluate/NAME`, say."""
    found = {name: getattr(row, name) for name in _OF_ROUND}
    for source in ("train", *SOURCES, ACROSS):
        found |= {path(source, name): value for name, value in (row.metrics.get(source) or {}).items()}
    return numbers(found)


def of_node(report: NodeReport) -> dict[str, float]:
    """Return the numbers of what a node did in a phase of a round, as `train/NAME` or `evaluate/NAME`."""
    found = {name: getattr(report, name) for name in _OF_NODE} | dict(report.metrics)
    return numbers({path(report.phase, name): value for name, value in found.items()})


def node_name(report: NodeReport) -> str:
    """Return how a node is called: as its machine, if that is known."""
    return path(report.name or f"node {report.node}")


def settings_of(result: RunResult) -> Iterator[tuple[str, str]]:
    """Yield the strategy, the run config and the releases of packages that a run was trained with."""
    summary: Mapping[str, Any] = json.loads(result.metrics.read_text(encoding="utf-8")) if result.metrics else {}
    yield "app", result.app
    if strategy := summary.get("strategy"):
        yield "strategy", str(strategy)
    for name, value in (summary.get("config") or {}).items():
        yield path("config", name), str(value)
    for name, value in (summary.get("versions") or {}).items():
        yield path("versions", name), str(value)


def path(*parts: str) -> str:
    """Return a name of several parts, without what a part may not have in it: a slash or dots at its ends, say."""
    return "/".join(_SAFE.sub("_", part).strip(". ")[:80] or "_" for part in parts)


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, or else the error's name. No login is in it."""
    return without_login(next(iter(str(error).splitlines()), type(error).__name__))[:300]


def without_login(text: str) -> str:
    """Return a text in which addresses have no name and no password."""
    return _LOGIN.sub("//", text)


class Moments:
    """When rounds ended, in milliseconds since 1970: the same whenever a run is sent.

    Runs of an older release do not say it. Their rounds follow `start`, when the tool began the run.
    """

    def __init__(self, start: int) -> None:
        self._start, self._spent = start, 0.0
        self._ended: dict[int, int] = {}

    def end_round(self, row: RunRow) -> None:
        """Learn of the next round."""
        self._spent += row.seconds
        ended: Any = row.metrics.get("ended")
        known = is_number(ended) and 0 < ended < _LATEST
        self._ended[row.round] = int(1000 * ended) if known else self._start + int(1000 * self._spent)

    def of(self, number: int) -> int:
        """Return when a round ended, or for one that nobody knows, when the run began."""
        return self._ended.get(number, self._start)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; Python has this from 3.12 on."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
