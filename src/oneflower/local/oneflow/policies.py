"""Scaling policies: how many VMs a role should have. Source: OneFlow's vmrole.rb and ServiceAutoScaler.rb.

Policies are evaluated in place: they carry `last_eval`, `true_evals` and `expression_evaluated` along, as in the
documents of the real server.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from cronsim import CronSim, CronSimError
from dateutil import parser as dates

from oneflower.local.oneflow import expressions

if TYPE_CHECKING:
    from oneflower.local.models import Vm


def parse_time(text: str) -> float | None:
    """Return seconds since the epoch for digits or a date, None for anything else."""
    if re.search(r"^\d+$", text, re.MULTILINE):
        return float(re.findall(r"\d+", text)[0])
    try:
        return dates.parse(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def valid_recurrence(text: str) -> bool:
    """Whether `text` is a cron expression."""
    return _next_time(text, 0.0) is not None


def _next_time(recurrence: str, after: float) -> float | None:
    try:
        moment = next(CronSim(recurrence, datetime.datetime.fromtimestamp(after).astimezone()))
    except (CronSimError, StopIteration):
        return None
    return moment.timestamp()


def wanted(role: dict[str, Any], vms: list[Vm], now: float) -> tuple[int, int | None]:
    """Evaluate a role's policies. Returns by how many VMs it should grow (negative: shrink), and a new cooldown.

    Scheduled policies come first, then elasticity policies, each until one wants a change; then `min_vms`.
    """
    for policy in role.get("scheduled_policies") or ():
        if change := _scheduled(policy, role, now):
            return change, policy.get("cooldown")
    for policy in role.get("elasticity_policies") or ():
        if change := _elastic(policy, role, vms, now):
            return change, policy.get("cooldown", role.get("cooldown"))
    lacking = (role.get("min_vms") or 0) - role["cardinality"]
    return (lacking, 0) if lacking > 0 else (0, None)


def _scheduled(policy: dict[str, Any], role: dict[str, Any], now: float) -> int:
    last, policy["last_eval"] = policy.get("last_eval", 0), int(now)
    if not last:
        return 0
    if policy.get("start_time"):
        planned = parse_time(policy["start_time"])
    else:
        planned = _next_time(policy.get("recurrence") or "", last)
    return _target(policy, role) - role["cardinality"] if planned is not None and last < planned <= now else 0


def _elastic(policy: dict[str, Any], role: dict[str, Any], vms: list[Vm], now: float) -> int:
    if now < policy.get("last_eval", 0) + policy.get("period", 0):
        return 0
    holds, text = expressions.parse(policy["expression"]).value(lambda name: mean(name, vms))
    needed, change, trues = policy.get("period_number", 0), 0, 0
    if holds:
        trues = min(policy.get("true_evals", 0) + 1, needed)
        if trues >= needed:
            change = _target(policy, role) - role["cardinality"]
    policy |= {"last_eval": int(now), "true_evals": trues, "expression_evaluated": text}
    return change


def _target(policy: dict[str, Any], role: dict[str, Any]) -> int:
    """Return the cardinality that a policy asks for, within the role's bounds."""
    have, adjust = role["cardinality"], policy["adjust"]
    most, least = max(have, role.get("max_vms") or 0), role.get("min_vms") or 0
    if policy["type"] == "CARDINALITY":
        target = adjust
    elif policy["type"] == "CHANGE":
        target = have + adjust
    else:
        change = have * adjust / 100
        step = max(int(abs(change)), 1, policy.get("min_adjust_step", 0))
        target = have + (step if change > 0 else -step)
    if adjust > 0:
        return int(min(target, most))
    return int(max(target, least) if adjust < 0 else target)


def mean(name: str, vms: list[Vm]) -> float | None:
    """Return the mean of an attribute over the running VMs that have it, rounded to hundredths; None when none has.

    Text that begins with no number counts as 0, as Ruby's to_f has it.
    """
    values = []
    for vm in vms:
        found = vm.user_template.get(name, vm.template.get(name))
        if vm.running and isinstance(found, str):
            number = re.match(r"\s*[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", found)
            values.append(float(number[0]) if number else 0.0)
    return round(sum(values) / len(values) * 100) / 100 if values else None
