"""Writes what each node did in each round into the folder of a run (`node_reports` has the format).

It is bounded. A file has at most `_FILE_BYTES` when the next one begins, so a round writes little however long the run
is, and only these lines are in memory. Of a node, the first `_METRICS` numbers count. After `_RUN_BYTES` no more is
recorded, which the run's log says.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.node_reports import (
    UNFINISHED,
    NodeReport,
    file_name,
    files,
    lines_after,
    read_line,
    round_of,
    write_line,
)
from oneflower_appliance.run_folder import Origin
from oneflower_appliance.runs import is_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flwr.app import RecordDict

    from oneflower_appliance.runs import Fault
    from oneflower_appliance.training.traffic import Measure

log = logging.getLogger("flwr")

_FILE_BYTES = 1 << 18
_RUN_BYTES = 64 << 20
_METRICS = 20
_LONGEST_NAME = 64
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Told:
    """What a node reported: its number of examples, None if it did not say, and its metrics."""

    examples: int | float | None = None
    metrics: Mapping[str, int | float] = field(default_factory=dict)


def told_in(content: RecordDict, weighted_by: str) -> Told:
    """Return what a reply of the Message API reports. The metric `weighted_by` has the number of examples."""
    found = {str(name): value for record in content.metric_records.values() for name, value in record.items()}
    return told_by(found.pop(weighted_by, None), found)


def told_by(examples: Any, metrics: Mapping[str, Any]) -> Told:
    """Return what a node reports, without what is not a number and without what is too much."""
    numbers = {name: value for name, value in metrics.items() if is_number(value) and len(name) <= _LONGEST_NAME}
    return Told(examples if is_number(examples) else None, dict(list(numbers.items())[:_METRICS]))


class NodeRecord:
    """The record in the folder of one run. `withheld` says that metrics and examples are left out."""

    def __init__(self, folder: Path, *, withheld: bool) -> None:
        self._folder = folder
        self._withheld = withheld
        self._begin_file()
        self._size = sum(path.stat().st_size for _, path in files(folder))
        self._full = False
        self._reports: list[NodeReport] = []

    def _begin_file(self) -> None:
        self._lines: list[str] = []
        self._bytes = 0

    def resume(self, before: Iterable[Path], last: int, trained: bool) -> None:  # noqa: FBT001
        """Continue the record in the first of some folders that has one, up to round `last`.

        With `trained`, the next round was trained there, and what is known of its training belongs to this run, too.
        Raises `OneflowerError`.
        """
        folders = list(before)
        folder = next((folder for folder in folders if files(folder)), None)
        for line in lines_after(folder) if folder else ():
            number = round_of(line)
            if number > last:
                break
            self._append(number, line)
            if self._bytes >= _FILE_BYTES:
                self._write()
                self._begin_file()
        if self._lines:
            self._write()
        if trained:
            said = next(filter(None, (Origin.said(folder, UNFINISHED) for folder in folders)), "")
            with suppress(ValueError):  # damaged, or there is none
                self._reports = [report for report in read_line(said) if report.round == last + 1]

    def add(
        self,
        number: int,
        phase: str,
        told: Mapping[int, Told],
        faults: Iterable[Fault],
        measured: Mapping[int, Measure],
    ) -> None:
        """Add what each node did in a phase of round `number`."""
        wrong = {int(fault.node): fault for fault in faults}
        for node in sorted({*told, *wrong, *measured}):
            fault, measure, said = wrong.get(node), measured.get(node), told.get(node, Told())
            if self._withheld:
                said = Told()
            self._reports.append(
                NodeReport(
                    number,
                    str(node),
                    phase,
                    fault.kind if fault else "",
                    fault.reason[:_LONGEST_REASON] if fault else "",
                    said.examples,
                    measure.seconds if measure else None,
                    measure.sent if measure else None,
                    measure.received if measure else None,
                    said.metrics,
                )
            )

    def save(self, number: int) -> None:
        """Write what is known of round `number` so far, so that a run that resumes this one has it.

        Raises `OneflowerError`.
        """
        if self._reports and not self._full:
            line = write_line(number, self._reports, withheld=self._withheld)
            write_atomic(self._folder / UNFINISHED, line + "\n", SHARED)

    def close_round(self, number: int) -> None:
        """Write round `number`. Raises `OneflowerError`."""
        reports, self._reports = self._reports, []
        if not reports or self._full:
            return
        if self._size >= _RUN_BYTES:
            self._full = True
            log.warning("The record of what each node reported is full; it ends before round %d.", number)
            return
        if self._bytes >= _FILE_BYTES:
            self._begin_file()
        self._append(number, write_line(number, reports, withheld=self._withheld))
        self._write()

    def _append(self, number: int, line: str) -> None:
        if not self._lines:
            self._first = number
        self._lines.append(line)
        self._bytes += len(line) + 1
        self._size += len(line) + 1

    def _write(self) -> None:
        # To wait for the disk would take most of what the record takes. After a crash of the machine, a part of the
        # record may be missing, and nothing else.
        write_atomic(self._folder / file_name(self._first), "\n".join(self._lines) + "\n", SHARED, synced=False)
