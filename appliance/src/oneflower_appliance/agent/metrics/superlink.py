"""What a SuperLink measures: its nodes, runs, rounds certificates, and the bytes to and from nodes."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance import metrics as m
from oneflower_appliance.agent.metrics.sites import SiteTasks, nodes_online
from oneflower_appliance.node_reports import lines_after, read_line
from oneflower_appliance.node_state import OFFLINE, ONLINE, REGISTERED, UNREGISTERED
from oneflower_appliance.run_folder import METRICS, Origin
from oneflower_appliance.run_state import COMPLETED, FAILED, STOPPED
from oneflower_appliance.runs import FAULT_KINDS, PHASES, lines_of, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.duties import Duties
    from oneflower_appliance.agent.expiry import Expiry
    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.metrics import Measure, Reading
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.runs import RunRow

_PATIENCE = 2.0  # seconds for an answer of Flower's: Prometheus waits 10 for all of it
_ACTIVE, _OTHER = "active", "other"


class SuperLinkMetrics:
    """Measures a SuperLink. Until it is up, the functions return None. `api` makes a client of it."""

    def __init__(
        self,
        api: Callable[[float], SuperLinkApi | None],
        duties: Callable[[], Duties | None],
        expiry: Callable[[], Expiry | None],
        runs: Path,
    ) -> None:
        self._api = api
        self._duties = duties
        self._expiry = expiry
        self._rounds = Rounds(runs)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it measures: if one fails, the others are complete."""
        return self._of_service, self._of_runs, self._of_certificates, self._of_nodes, self._of_traffic

    def _of_service(self) -> Iterator[Reading]:
        if duties := self._duties():
            yield m.NODES_REFUSED.is_(duties.refused)
            if duties.expected is not None:
                yield m.NODES_EXPECTED.is_(duties.expected)

    def _of_nodes(self) -> Iterator[Reading]:
        if api := self._api(_PATIENCE):
            nodes = api.nodes()
            found = Counter(node.status for node in nodes)
            for state in (REGISTERED, ONLINE, OFFLINE):
                yield m.NODES_NOW.is_(found[state], state)
            yield from nodes_online(node for node in nodes if node.status != UNREGISTERED)

    def _of_traffic(self) -> Iterator[Reading]:
        if api := self._api(_PATIENCE):
            received, sent = api.traffic()
            yield m.FLEET_RECEIVED.is_(received)
            yield m.FLEET_SENT.is_(sent)

    def _of_certificates(self) -> Iterator[Reading]:
        expiry = self._expiry()
        if expiry and (ends := expiry.ends):
            yield m.EXPIRY.is_(ends.ca.timestamp(), "ca")
            yield m.EXPIRY.is_(ends.server.timestamp(), "server")

    def _of_runs(self) -> Iterator[Reading]:
        if (duties := self._duties()) is None:
            return
        runs = duties.runs
        states = Counter(run.outcome if run.finished else _ACTIVE for run in runs)
        for state in (_ACTIVE, COMPLETED, FAILED, STOPPED):
            yield m.RUNS.is_(states[state], state)
        yield m.RUN_ACTIVE.is_(bool(states[_ACTIVE]))
        self._rounds.look(runs)
        yield from self._rounds.readings(runs[-1].id if runs else "")


class Rounds:
    """The rounds of all runs, as their folders in `runs` have them. Those that are there already are not counted."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known = {folder.name: _Run(folder) for folder in (runs.iterdir() if runs.is_dir() else ())}
        self._done: dict[str, int] = {}  # the last round that is known, by the first run of a chain
        self._rounds, self._seconds = 0, 0.0
        self._phases = dict.fromkeys((*PHASES, _OTHER), 0.0)
        self._tasks = dict.fromkeys(PHASES, 0)
        self._sites = SiteTasks(runs.parent)
        self._faults = dict.fromkeys(((phase, kind) for phase in PHASES for kind in FAULT_KINDS), 0)
        for run in self._known.values():
            self._new_rows(run)

    def look(self, runs: Sequence[RunState]) -> None:
        """Read what is new."""
        self._known = {run.id: self._known.get(run.id) or _Run(self._runs / run.id) for run in runs}
        for run in self._known.values():
            rows = self._new_rows(run)
            if rows:
                reports = list(run.reports(rows[0].round, rows[-1].round))
                self._sites.count(reports)
                spent = self._count_reports(reports)
                self._phases[_OTHER] += max(0.0, sum(row.seconds for row in rows) - spent)
            for row in rows:
                self._rounds += 1
                self._seconds += row.seconds
                for fault in row.faults:
                    if (fault.phase, fault.kind) in self._faults:
                        self._faults[fault.phase, fault.kind] += 1
        chains = {run.chain for run in self._known.values()}
        self._done = {chain: last for chain, last in self._done.items() if chain in chains}

    def _count_reports(self, reports: Iterable[NodeReport]) -> float:
        """Count tasks and the seconds of phases. Returns the seconds of all phases."""
        slowest: dict[tuple[int, str], float] = {}
        for report in reports:
            if report.phase in PHASES and not report.fault:
                self._tasks[report.phase] += 1
                key = report.round, report.phase
                slowest[key] = max(slowest.get(key, 0.0), report.seconds or 0.0)
        for (_, phase), seconds in slowest.items():
            self._phases[phase] += seconds
        return sum(slowest.values())

    def _new_rows(self, run: _Run) -> list[RunRow]:
        """Return the rows of a run that are new. A run that resumes another repeats the rows of that."""
        new = [row for row in run.news() if row.round > self._done.get(run.chain, 0)]
        if new:
            self._done[run.chain] = new[-1].round
        return new

    def readings(self, newest: str) -> Iterator[Reading]:
        """Return the readings. `newest` is the id of the newest run, empty if there is none."""
        yield m.ROUNDS_DONE.is_(self._rounds)
        yield m.ROUND_SECONDS.is_(self._seconds)
        for phase, seconds in self._phases.items():
            yield m.PHASE_SECONDS.is_(seconds, phase)
        for phase, count in self._tasks.items():
            yield m.NODE_TASKS.is_(count, phase)
        for (phase, kind), count in self._faults.items():
            yield m.FAULTS.is_(count, phase, kind.replace(" ", "_"))
        yield from self._sites.readings()
        if (run := self._known.get(newest)) is None:
            return
        yield m.PROGRESS.is_(run.progress)
        row = run.last
        yield m.ROUND.is_(row.round if row else 0)
        if row is None:
            return
        yield m.ROUNDS.is_(row.rounds)
        yield m.RUN_NODES.is_(row.nodes)
        for metric, value in ((m.LOSS, row.loss), (m.ACCURACY, row.accuracy), (m.TRAIN_LOSS, row.train_loss)):
            if value is not None:
                yield metric.is_(value)


class _Run:
    """The rows of a run in its folder, of which only new ones are parsed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._state: tuple[int, int] | None = None
        self._read = 0
        self.chain = folder.name
        with suppress(OSError, ValueError, TypeError):  # a file that cannot be read: then it resumes no other run
            self.chain = Origin.of(folder).first
        self.last: RunRow | None = None
        self.progress = time.time()

    def reports(self, first: int, last: int) -> Iterator[NodeReport]:
        """Return what nodes did in these rounds."""
        for line in lines_after(self._path.parent, first - 1):
            with suppress(ValueError):
                yield from [report for report in read_line(line) if report.round <= last]

    def news(self) -> list[RunRow]:
        """Return the rows since the last call."""
        try:
            found = self._path.stat()
            state = (found.st_mtime_ns, found.st_ino)
            if state == self._state:
                return []
            lines = lines_of(self._path)
        except OSError:
            return []
        rows, _ = read_rows(lines[self._read :])
        self._state, self._read = state, len(lines)
        if rows:
            self.last, self.progress = rows[-1], found.st_mtime
        return rows
