"""Fetches what each node did in each round of a run from its SuperLink."""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower_appliance.files import SHARED, replacing
from oneflower_appliance.node_findings import NEEDED
from oneflower_appliance.node_reports import NodeReport, read_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from oneflower.cloud.status import FederationStatus
    from oneflower.cloud.superlink import SuperLinkClient


@dataclass(frozen=True)
class Machines:
    """The names and the partitions of the SuperNodes' machines, by Flower's ids of the nodes."""

    names: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: FederationStatus) -> Machines:
        """Return those of a federation."""
        return cls(status.names, status.partitions)


UNKNOWN = Machines()


def fetch(link: SuperLinkClient, number: str, after: int = 0, machines: Machines = UNKNOWN) -> Iterator[NodeReport]:
    """Yield what each node did in the rounds after round `after` of a run, by round, as far as these are complete.

    What cannot be read is left out. Nothing if the SuperLink is of a release without this record. Raises
    `httpx.HTTPError`.
    """
    while lines := link.text(f"/runs/{number}/reports?after={after}").splitlines():
        before = after
        for line in lines:
            with suppress(ValueError):
                reports = read_line(line)
                after = max([after, *(report.round for report in reports)])
                yield from (report.of_machine(machines.names, machines.partitions) for report in reports)
        if after == before:
            return


def save(link: SuperLinkClient, number: str, path: Path, machines: Machines) -> list[NodeReport] | None:
    """Save the reports of a run, a line of JSON each, and return those of the last rounds, for `node_findings`.

    Without a report there is no file, and None is returned. Raises `OneflowerError` or `httpx.HTTPError`.
    """
    reports = fetch(link, number, machines=machines)
    first = next(reports, None)
    if first is None:
        return None
    latest: deque[NodeReport] = deque()
    with replacing(path, SHARED) as stream:
        for report in itertools.chain([first], reports):
            stream.write(f"{report.line}\n".encode())
            latest.append(report)
            while latest[0].round <= report.round - NEEDED:
                latest.popleft()
    return list(latest)


def load(path: Path) -> list[NodeReport]:
    """Return the reports that `save` saved. Raises `OSError` or `ValueError`."""
    with path.open(encoding="utf-8") as lines:
        return [NodeReport.of_line(line) for line in lines]
