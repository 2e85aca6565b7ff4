"""Scaling policies: how many VMs a role should have. Source: OneFlow's vmrole.rb and ServiceAutoScaler.rb.

Evaluating a policy changes it in place: it stores `last_eval`, `true_evals` and `expression_evaluated`, as in the
documents of the real server.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING, Any

from dateutil import parser as dates

from oneflower.local.oned.corexml import vm_data
from oneflower.opennebula import expressions
from oneflower.opennebula.cron import Cron, CronError

if TYPE_CHECKING:
    from oneflower.local.oned.models import Vm

_THREE_NUMBERS = re.compile(r"(?<!\d)(\d{1,4})([-/.])(\d{1,4})\2(\d{1,4})(?!\d)")
_SHORT, _LAST_CENTURY = 2, 69


def parse_time(text: str) -> float | None:
    """Return the seconds since the epoch for digits or a date, and None for anything else.

    Three numbers are read as Ruby reads them: the longest is the year and the middle one the month, whatever the
    separator, so `31/12/2031` is a date and `12/31/2031` is not. To Ruby, a weekday alone is not a time.
    """
    if re.search(r"^\d+$", text, re.MULTILINE):
        return float(re.findall(r"\d+", text)[0])
    if not re.search(r"\d", text):
        return None
    try:
        return dates.parse(_THREE_NUMBERS.sub(_iso_date, text, count=1)).timestamp()
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def _iso_date(found: re.Match[str]) -> str:
    year, month, day = found[1], found[3], found[4]
    if len(day) > _SHORT:
        year, day = day, year
    number = int(year)
    if len(year) <= _SHORT:
        number += 1900 if number >= _LAST_CENTURY else 2000
    return datetime.date(number, int(month), int(day)).isoformat()


def valid_recurrence(text: str) -> bool:
    """Whether `text` is a cron expression."""
    return _next_time(text, 0.0) is not None


def _next_time(recurrence: str, after: float) -> float | None:
    try:
        return Cron(recurrence).next(datetime.datetime.fromtimestamp(after).astimezone()).timestamp()
    except CronError:
        return None


def wanted(role: dict[str, Any], vms: list[Vm], now: float) -> tuple[int, int | None]:
    """Evaluate a role's policies. Return how many VMs to add (negative: to remove), and a new cooldown.

    Scheduled policies come first, then elasticity policies, then `min_vms`. The first that asks for a change wins.
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
    try:
        holds, text = expressions.parse(policy["expression"]).value(lambda name: mean(name, vms))
    except expressions.ParseError:
        return 0  # an update of the service wrote it, and updates are not checked
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
    """Return the mean of an attribute over the running VMs that have it, rounded to hundredths, or None if none has it.

    Text that does not begin with a number counts as 0, as in Ruby's to_f.
    """
    values = [_number(found) for vm in vms if vm.running and isinstance(found := _attribute(vm, name), str)]
    found = sum(values) / len(values) if values else math.inf
    if not math.isfinite(found):
        return (
            None  # Ruby cannot round Infinity and OneFlow's autoscaler fails; here no VM counts as having the attribute
        )
    return math.copysign(math.floor(abs(found) * 100 + 0.5), found) / 100


def _attribute(vm: Vm, name: str) -> Any:
    """Return an attribute from the first part of a VM that has it: its templates, or itself (LCM_STATE)."""
    data = vm_data(vm)
    places = (data["USER_TEMPLATE"], data["TEMPLATE"], data)
    return next((place[name] for place in places if name in place), None)


def _number(text: str) -> float:
    """Return what Ruby's to_f makes of a text."""
    number = re.match(r"\s*[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text)
    return float(number[0]) if number else 0.0
