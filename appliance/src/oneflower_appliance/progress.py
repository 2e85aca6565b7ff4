"""The progress of a SuperLink's newest run: its agent publishes it, and a client reads it.

Both ends use this one class, so no attribute of a run is spelled on either side.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.attributes import NOTHING
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.node_findings import Finding
from oneflower_appliance.run_privacy import RunPrivacy
from oneflower_appliance.run_state import COMPLETED, FAILED, STOPPED
from oneflower_appliance.runs import GARBAGE, Fault, RunRow, pack, unpack
from oneflower_appliance.site_scores import Worst, read_worst, worst_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LATEST = 10  # rounds published together, so that a client that polls misses none
_LONGEST_ERROR = 500
_MOST_FINDINGS = 8


@dataclass(frozen=True)
class RunProgress:
    """The newest run, as it was a few seconds ago. `status` is Flower's; the rest may be unknown.

    `latest` are its last rounds, and `row` the last of them. `fault` is the last fault of a node, in `fault_round`. A
    completed run has an error if something is missing, such as the evaluation. `model` is a path on the SuperLink's
    machine. `findings` say which nodes are noticeable: the first of them if there are many. `waiting` is what it waits
    for. `worst` says on which site the model of the last round is worst, by metric, and `privacy` what it has spent.
    """

    id: str
    app: str
    status: str
    round: int = 0
    rounds: int = 0
    row: RunRow | None = None
    error: str = ""
    latest: tuple[RunRow, ...] = ()
    fault: Fault | None = None
    fault_round: int = 0
    model: str = ""
    findings: tuple[Finding, ...] = ()
    waiting: str = ""
    worst: tuple[Worst, ...] = ()
    privacy: str = ""

    def after(self, rows: Sequence[RunRow]) -> RunProgress:
        """Return it with all the rounds of the run so far."""
        faults = [(row.round, fault) for row in rows for fault in row.faults]
        number, fault = faults[-1] if faults else (0, None)
        worst = worst_in(rows[-1]) if rows else ()
        privacy = RunPrivacy.in_row(rows[-1].metrics).sentence if rows else ""
        found = self.with_rows(tuple(rows[-_LATEST:]))
        return replace(found, fault=fault, fault_round=number, worst=worst, privacy=privacy)

    def with_rows(self, latest: tuple[RunRow, ...]) -> RunProgress:
        """Return it with its last rounds."""
        if not latest:
            return self
        return replace(self, round=latest[-1].round, rounds=latest[-1].rounds, row=latest[-1], latest=latest)

    @property
    def published(self) -> dict[str, str]:
        """The attributes to publish. OneGate forgets nothing, so an unknown value is published as empty."""
        row = self.row
        fault = json.dumps({"round": self.fault_round, **self.fault.entry}) if self.fault else ""
        findings = json.dumps([found.entry for found in self.findings[:_MOST_FINDINGS]]) if self.findings else ""
        sites = json.dumps([asdict(worst) for worst in self.worst]) if self.worst else ""
        return {
            attributes.RUN_ID.name: self.id,
            attributes.RUN_APP.name: self.app,
            attributes.RUN_STATUS.name: self.status,
            attributes.RUN_ERROR.name: attributes.RUN_ERROR.write(self.error[:_LONGEST_ERROR]),
            attributes.RUN_MODEL.name: attributes.RUN_MODEL.write(self.model),
            attributes.RUN_ROWS.name: pack(self.latest) or NOTHING,
            attributes.RUN_FAULT.name: attributes.RUN_FAULT.write(fault),
            attributes.RUN_FINDINGS.name: attributes.RUN_FINDINGS.write(findings),
            attributes.RUN_WAITING.name: attributes.RUN_WAITING.write(self.waiting[:_LONGEST_ERROR]),
            attributes.RUN_PRIVACY.name: attributes.RUN_PRIVACY.write(self.privacy[:_LONGEST_ERROR]),
            attributes.RUN_SITES.name: attributes.RUN_SITES.write(sites),
            attributes.RUN_ROUND.name: _number(row.round if row else None),
            attributes.RUN_ROUNDS.name: _number(row.rounds if row else None),
            attributes.RUN_NODES.name: _number(row.nodes if row else None),
            attributes.RUN_FAILURES.name: _number(row.failures if row else None),
            attributes.RUN_SECONDS.name: _number(row.seconds if row else None),
            attributes.RUN_LOSS.name: _number(row.loss if row else None),
            attributes.RUN_ACCURACY.name: _number(row.accuracy if row else None),
        }

    @classmethod
    def read(cls, published: Mapping[str, str], names: Mapping[str, str]) -> RunProgress | None:
        """Return what a SuperLink published, or None if it has no run. A value that cannot be read counts as unknown.

        `names` are the names of the machines, by Flower's node ids.
        """
        if attributes.RUN_ID.name not in published:
            return None
        found = cls(
            published[attributes.RUN_ID.name],
            attributes.RUN_APP.read(published),
            attributes.RUN_STATUS.read(published),
            error=attributes.RUN_ERROR.read(published),
            model=attributes.RUN_MODEL.read(published),
            privacy=attributes.RUN_PRIVACY.read(published),
            waiting=with_names(attributes.RUN_WAITING.read(published), names),
        )
        with suppress(KeyError, ValueError):
            found = found.with_rows(unpack(attributes.RUN_ROWS.read(published)))
        with suppress(KeyError, TypeError, ValueError, OverflowError, RecursionError):
            said = json.loads(attributes.RUN_FAULT.read(published))
            found = found.with_fault(int(said["round"]), Fault.parse(said), names)
        with suppress(KeyError, TypeError, ValueError, RecursionError):
            listed = json.loads(attributes.RUN_FINDINGS.read(published))[:_MOST_FINDINGS]
            found = replace(found, findings=tuple(Finding.parse(entry, names) for entry in listed))
        with suppress(*GARBAGE):
            found = replace(found, worst=read_worst(json.loads(attributes.RUN_SITES.read(published))))
        return found

    def with_fault(self, number: int, fault: Fault, names: Mapping[str, str]) -> RunProgress:
        """Return it with the last fault of a node, in round `number`."""
        known = replace(fault, name=names.get(fault.node, ""))
        latest = tuple(replace(row, faults=(known,)) if row.round == number else row for row in self.latest)
        return replace(self.with_rows(latest), fault=known, fault_round=number)

    @property
    def finished(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.status in (COMPLETED, FAILED, STOPPED)

    def completed(self) -> RunProgress:
        """Return itself. Raises `OneflowerError` if it did not succeed."""
        if self.status != COMPLETED or self.error:
            raise OneflowerError(
                f"Run {self.id} of {self.app} {self.status}: {self.error or 'no reason is known'}",
                "See `oneflower logs` for what the SuperLink and the nodes said.",
                ExitCode.RUN_FAILED,
            )
        return self


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Return a sentence with nodes named after their machines; `names` has the names by Flower's ids."""
    return re.sub(r"\bnode (\d{1,20})\b", lambda found: names.get(found[1], found[0]), text)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.6g}"
