"""The alert rules, over the metrics that machines export. They are the same for every federation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneflower_appliance import metrics as m
from oneflower_appliance.expiry import WARNED

JOB = "oneflower"
_WHO = "{{ $labels.node }} of {{ $labels.federation }}"
_ALL = "{{ $labels.federation }}"


@dataclass(frozen=True)
class Limits:
    """When an alert fires: durations as Prometheus writes them (30s, 5m, 1h).

    `lost` is how long a machine must be away, and `stalled` how long a run may go without completing a round.
    """

    lost: str = "2m"
    stalled: str = "1h"
    clock: float = 5.0  # seconds
    disk: float = 0.1  # of the disk
    certificate: int = WARNED  # days


def alert_rules(limits: Limits) -> dict[str, Any]:
    """Return the content of a file of rules."""
    on = "on (federation)"
    rules = [
        _rule(
            "OneflowerMachineDown", f'up{{job="{JOB}"}} == 0', limits.lost, "critical",
            f"{_WHO} does not answer",
            "Its VM or its agent is down, or the network between is. If it was removed, render the files again.",
        ),
        _rule(
            "OneflowerNodeLost", f'{m.NODES_NOW.name}{{state="online"}} < {on} {m.NODES_EXPECTED.name}',
            limits.lost, "warning",
            f"{_ALL} has {{{{ $value }}}} SuperNodes online, which is fewer than its service has",
            "`oneflower show` names the machine and its error. `oneflower recover` retries.",
        ),
        _rule(
            "OneflowerNotReady", f"{m.READY.name} == 0", limits.lost, "warning",
            f"{_WHO} is not ready",
            "`oneflower show` says why, in the machine's own words.",
        ),
        _rule(
            "OneflowerRestarts", f"increase({m.RESTARTS.name}[15m]) > 1", "0s", "warning",
            f"Flower was started again several times on {_WHO}",
            "`oneflower logs --node` shows why it ended.",
        ),
        _rule(
            "OneflowerNoProgress",
            f"time() - {m.PROGRESS.name} > {_seconds(limits.stalled)} and {on} {m.RUN_ACTIVE.name} == 1",
            "0s", "warning",
            f"The run of {_ALL} has completed no round for {limits.stalled}",
            "Is a node slow, or lost? FL_ROUND_TIMEOUT ends a round without the nodes that do not answer.",
        ),
        _rule(
            "OneflowerRunFailed", f'delta({m.RUNS.name}{{state="failed"}}[10m]) > 0', "0s", "warning",
            f"A run of {_ALL} failed",
            "`oneflower show` has its error.",
        ),
        _rule(
            "OneflowerNodeFaults", f"sum by (federation, kind) (increase({m.FAULTS.name}[10m])) > 0", "0s", "warning",
            f"Nodes of {_ALL} did not do their part ({{{{ $labels.kind }}}})",
            "`oneflower run` and `oneflower model` show which, and why.",
        ),
        _rule(
            "OneflowerNodesRefused", f"{m.NODES_REFUSED.name} > 0", "1m", "warning",
            f"Machines of {_ALL} may not join",
            "`oneflower show` says which, and why.",
        ),
        _rule(
            "OneflowerCertificateExpires", f"{m.EXPIRY.name} - time() < {limits.certificate} * 86400", "0s", "critical",
            f"A certificate of {_ALL} ({{{{ $labels.certificate }}}}) expires within {limits.certificate} days",
            "Replace a given one (FL_SSL_*). A generated one is replaced between runs; when its CA ends, deploy again.",
        ),
        _rule(
            "OneflowerDiskFull", f"{m.DISK_FREE.name} / {m.DISK.name} < {limits.disk:g}", "1m", "warning",
            f"A disk of {_WHO} is nearly full ({{{{ $labels.disk }}}})",
            "Free some space, or give the VM a larger disk.",
        ),
        _rule(
            "OneflowerClockWrong", f"abs({m.TIME.name} - timestamp({m.TIME.name})) > {limits.clock:g}", "1m", "warning",
            f"The clock of {_WHO} differs from that of Prometheus by more than {limits.clock:g} s",
            "Certificates and signatures depend on clocks: correct it, or that of Prometheus (NTP).",
        ),
    ]  # fmt: skip
    return {"groups": [{"name": "oneflower", "rules": rules}]}


def _rule(name: str, expression: str, lasting: str, severity: str, summary: str, what_to_do: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": what_to_do},
    }


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _UNITS[duration[-1]]
