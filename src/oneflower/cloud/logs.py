"""What a federation reports: the service's log, its machines and their consoles, once or as it comes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oneflower.cloud import superlink
from oneflower.moments import seconds_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.log_lines import JSON, Entry, moment, parse, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus, VmStatus
    from oneflower.cloud.surroundings import Tail

_SERVICE = "service"
_LOOK = 0.5  # seconds between two looks at the consoles
_ASK = 2.0  # and at the service
_FORMAT = "FL_LOG_FORMAT"


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted: the last `lines` of each console (None: all), of a machine, of a run, since a time."""

    lines: int | None = 40
    vm: str | None = None
    run: str | None = None
    since: float = 0.0  # seconds of the epoch


@dataclass(frozen=True)
class LogLine:
    """One line, of a machine's console or of the service. `entry` has its fields where it is one of the appliance's."""

    source: str
    text: str
    entry: Entry | None = None

    @classmethod
    def of(cls, source: str, text: str) -> LogLine:
        """Read a line of a console."""
        return cls(source, text, parse(text))

    @property
    def record(self) -> dict[str, Any]:
        """Return it as an object."""
        return {"machine": self.source, **(self.entry or {"message": self.text})}

    def __str__(self) -> str:
        shown = text_of(self.entry) if self.entry else self.text
        return "\n".join(f"{self.source} | {line}" for line in shown.split("\n"))


@dataclass(frozen=True)
class Logs:
    """What a federation reports: the service's log, the machines, and their consoles where there are any.

    `journal` says how to see what apps print on the machine that was asked for, if its console does not have it.
    """

    service: tuple[str, ...]
    vms: tuple[VmStatus, ...]
    consoles: Mapping[str, list[str]]
    journal: str = ""

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines())

    def lines(self, *, consoles_only: bool = False) -> list[str]:
        """Return all of it, or only the consoles, as lines that begin with their source."""
        text: list[str] = []
        if not consoles_only:
            text += [f"service: {line}" for line in self.service]
            text += [f"{vm.name}: {'ready' if vm.ready else vm.error or vm.waits or vm.state}" for vm in self.vms]
        return text + [line for found in self.records() for line in str(found).split("\n")]

    def records(self) -> list[LogLine]:
        """Return the lines of the consoles, machine by machine."""
        return [LogLine.of(name, line) for name, console in self.consoles.items() for line in console]


def read_logs(service: Service, wanted: Wanted) -> Logs:
    """Return what a service reports. Raises `OneflowerError` when there is no such machine or run."""
    body = service.body()
    status = service.status(body)
    shown = _machines(status, wanted.vm)
    surroundings = service.cloud.surroundings
    if wanted.run and (status.settings.get(_FORMAT) != JSON or not surroundings.tail(shown[0].id)):
        consoles = {f"run {wanted.run}": _log_of_run(service, status, wanted)}
    else:
        consoles = {vm.name: _chosen(_last(surroundings.tail(vm.id), wanted), wanted) for vm in shown}
        if wanted.run and not any(consoles.values()):
            raise _no_run(status, wanted.run)
    journal = surroundings.journal(shown[0].ip) if wanted.vm is not None and shown[0].ip else ""
    log = tuple(entry["message"] for entry in body.get("log", ()) if _is_after(entry.get("timestamp"), wanted.since))
    return Logs(() if wanted.run else log, status.vms, consoles, journal)


def follow_logs(service: Service, wanted: Wanted, wait: Callable[[float], object] = time.sleep) -> Iterator[LogLine]:
    """Yield what a service reports, and then what is new, until the service is gone.

    A side that keeps no consoles reports the service's log and the states of machines.
    """
    seen = _Seen(service, wanted)
    yield from seen.news()
    while seen.there:
        for _ in range(round(_ASK / _LOOK)):
            wait(_LOOK)
            yield from seen.printed()
        yield from seen.news()


@dataclass
class _Seen:
    """What was reported so far."""

    service: Service
    wanted: Wanted
    there: bool = True
    _log: list[object] = field(default_factory=list)
    _states: dict[str, str] = field(default_factory=dict)
    _tails: dict[str, Tail | None] = field(default_factory=dict)

    def news(self) -> Iterator[LogLine]:
        """Yield what is new of the service and its machines, with the ends of consoles that are new."""
        body = self.service.find_body()
        if body is None:
            self.there = False
            yield self._line(_SERVICE, "The federation is gone.")
            return
        status = self.service.status(body)
        new = [entry for entry in body.get("log", ()) if entry not in self._log]
        self._log = list(body.get("log", ()))
        if not self.wanted.run:
            for entry in new:
                if _is_after(entry.get("timestamp"), self.wanted.since):
                    yield self._line(_SERVICE, entry["message"], entry.get("timestamp"))
        for vm in _machines(status, self.wanted.vm):
            state = "ready" if vm.ready else vm.error or vm.waits or vm.state
            if self._states.get(vm.name) != state and not self.wanted.run:
                yield self._line(vm.name, state)
            self._states[vm.name] = state
            if vm.name not in self._tails:
                tail = self._tails[vm.name] = self.service.cloud.surroundings.tail(vm.id)
                for line in _chosen(_last(tail, self.wanted), self.wanted):
                    yield LogLine.of(vm.name, line)

    def printed(self) -> Iterator[LogLine]:
        """Yield the new lines of the consoles."""
        after = replace(self.wanted, since=0.0)
        for name, tail in self._tails.items():
            for line in _chosen(tail.news() if tail else (), after):
                yield LogLine.of(name, line)

    def _line(self, source: str, message: str, when: float | None = None) -> LogLine:
        return LogLine(source, message, {"time": moment(when), "level": "INFO", "source": source, "message": message})


def _machines(status: FederationStatus, vm: str | None) -> list[VmStatus]:
    shown = [found for found in status.vms if vm in (None, found.name, str(found.id), found.node_id)]
    if vm is not None and not shown:
        raise OneflowerError(
            f"{status.name} has no machine {vm!r}.",
            f"It has {', '.join(found.name for found in status.vms)}.",
            ExitCode.NOT_FOUND,
        )
    return shown


def _last(tail: Tail | None, wanted: Wanted) -> list[str]:
    return tail.last(None if wanted.since or wanted.run else wanted.lines) if tail else []


def _chosen(lines: Iterable[str], wanted: Wanted) -> list[str]:
    """Return the lines that are wanted. One without a time belongs to the line before it."""
    if not wanted.since and not wanted.run:
        return list(lines)
    found, good = [], False
    for line in lines:
        entry = parse(line)
        if entry:
            good = _is_after(seconds_of(entry.get("time", "")), wanted.since) and (
                wanted.run in (None, entry.get("run"))
            )
        if good:
            found.append(line)
    return found[-wanted.lines :] if wanted.lines else found


def _is_after(moment_of_it: object, since: float) -> bool:
    return not since or (isinstance(moment_of_it, int | float) and moment_of_it >= since)


def _log_of_run(service: Service, status: FederationStatus, wanted: Wanted) -> list[str]:
    """Return what the ServerApp of a run logged, which its SuperLink keeps."""
    with superlink.reach(service.cloud.surroundings, status) as link:
        found = link.json(f"/runs/{wanted.run}/log?after={wanted.since}") if str(wanted.run).isdecimal() else None
    if found is None:
        raise _no_run(status, str(wanted.run))
    lines = str(found["text"]).splitlines()
    return lines[-wanted.lines :] if wanted.lines else lines


def _no_run(status: FederationStatus, run: str) -> OneflowerError:
    return OneflowerError(
        f"{status.name} has no line of a run {run!r}.",
        "`oneflower show` names the last run; `flwr list` lists all (`oneflower connect`).",
        ExitCode.NOT_FOUND,
    )
