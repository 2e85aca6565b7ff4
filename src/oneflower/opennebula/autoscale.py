"""Scaling policies of the SuperNodes: as people write them in a line, and as OneFlow has them in a role.

    FL_TASK_SECONDS > 60 : +1 period=60 times=2 cooldown=60
    0 20 * * * = 8

OneFlow looks at all policies every 90 s, while a service is RUNNING. The mean of an attribute over the role's running
VMs counts. A policy fires when its condition held `times` times in a row, at least `period` seconds apart. Source:
OneFlow's ServiceAutoScaler.rb and vmrole.rb. Its trap: the cooldown of a policy that fired is that of the role from
then on, also when somebody scales by hand. So each policy here has one, and it is short.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.cron import Cron, CronError
from oneflower.opennebula.expressions import ParseError, parse
from oneflower_appliance.attributes import NUMBERS
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ELASTIC, SCHEDULED = "elasticity_policies", "scheduled_policies"
PERIOD, TIMES, COOLDOWN = 60, 2, 60  # seconds, looks, seconds
_OPTIONS = {"period": ("period", PERIOD), "times": ("period_number", TIMES), "cooldown": ("cooldown", COOLDOWN)}
# What OpenNebula itself knows of a VM: its monitoring, capacity and states.
OF_OPENNEBULA = frozenset({
    "CPU", "MEMORY", "VCPU", "NETRX", "NETTX", "DISKRDBYTES", "DISKWRBYTES", "DISKRDIOPS", "DISKWRIOPS", "STATE",
    "LCM_STATE",
})  # fmt: skip
KNOWN = OF_OPENNEBULA | NUMBERS

_WHEN = re.compile(r"(?P<expression>.+):\s*(?P<change>[+-]\d+%?|=\s*\d+)(?P<options>(\s+\w+=\w+)*)\s*")
_SCHEDULE = re.compile(r"(?P<cron>[^=]+)=\s*(?P<number>\d+)\s*")
_EXAMPLE = "Write it as 'FL_TASK_SECONDS > 60 : +1', or with period=60 times=2 cooldown=60 at its end."


@dataclass(frozen=True)
class Policies:
    """Policies of one role, as OneFlow has them."""

    elastic: tuple[Mapping[str, Any], ...] = ()
    scheduled: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, when: Iterable[str], schedule: Iterable[str] = ()) -> Policies:
        """Return the policies in these lines. Raises `OneflowerError`."""
        return cls(tuple(map(_elastic, when)), tuple(map(_scheduled, schedule)))

    @property
    def entries(self) -> dict[str, list[dict[str, Any]]]:
        """What they are in a role; a kind without any is left out."""
        both = {ELASTIC: self.elastic, SCHEDULED: self.scheduled}
        return {key: [dict(policy) for policy in found] for key, found in both.items() if found}

    def check(self, least: int, most: int) -> None:
        """Raise `OneflowerError` unless OneFlow can obey them between these numbers of SuperNodes."""
        for why, fix in problems(self.entries, least, most):
            raise OneflowerError(why, fix, ExitCode.INVALID_INPUT)


def has_policies(role: Mapping[str, Any]) -> bool:
    """Whether a role has any."""
    return bool(role.get(ELASTIC) or role.get(SCHEDULED))


def line_of(policy: Mapping[str, Any]) -> str:
    """Return a policy of OneFlow's in the form in which people write it."""
    number, kind = policy.get("adjust", 0), policy.get("type")
    if "expression" not in policy:
        when = policy.get("recurrence") or policy.get("start_time") or "?"
        change = f"= {number}" if kind == "CARDINALITY" else _signed(number, kind)
        return f"{when} {change}"
    change = f"={number}" if kind == "CARDINALITY" else _signed(number, kind)
    options = " ".join(f"{word}={policy[key]}" for word, (key, _) in _OPTIONS.items() if key in policy)
    return f"{policy['expression']} : {change} {options}".rstrip()


def _signed(number: Any, kind: Any) -> str:
    text = f"{number:+d}" if isinstance(number, int) else str(number)
    return f"{text}%" if kind == "PERCENTAGE_CHANGE" else text


def problems(role: Mapping[str, Any], least: int | None, most: int | None) -> Iterator[tuple[str, str]]:
    """Yield why policies of a role cannot work, and what to do. Only what can be read is judged."""
    for policy in _found(role, ELASTIC):
        yield from _of_expression(str(policy.get("expression", "")))
        yield from _of_number(policy, least, most)
    for policy in _found(role, SCHEDULED):
        yield from _of_time(policy)
        yield from _of_number(policy, least, most)


def _found(role: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = role.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _of_expression(text: str) -> Iterator[tuple[str, str]]:
    try:
        names = parse(text).names
    except ParseError as error:
        yield f"OneFlow cannot read the expression {text!r}: {error}.", "Compare names and numbers: FL_BUSY < 5."
        return
    for name in sorted(names - KNOWN):
        yield (
            f"No SuperNode publishes {name}, so {text!r} never holds.",
            f"SuperNodes publish {', '.join(sorted(NUMBERS))}.",
        )


def _of_number(policy: Mapping[str, Any], least: int | None, most: int | None) -> Iterator[tuple[str, str]]:
    number = policy.get("adjust")
    if not isinstance(number, int):
        return
    if policy.get("type") != "CARDINALITY":
        if number == 0:
            yield f"The policy {line_of(policy)!r} changes nothing.", "Write +1 or -1."
    elif least is not None and most is not None and not least <= number <= most:
        yield (
            f"The policy {line_of(policy)!r} wants {number} SuperNodes, and there may be {least} to {most}.",
            "Choose a number in between, or other limits.",
        )


def _of_time(policy: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    line, start = policy.get("recurrence"), policy.get("start_time")
    if (line is None) == (start is None):
        yield "A scheduled policy has no time, or two.", "Give it recurrence, a line of cron, or start_time."
    elif line is not None and (why := _not_cron(str(line))):
        yield f"{line!r} is not a time that OneFlow can read: {why}.", _FIVE
    elif line is not None and len(str(line).split()) != len(_FIELDS) and not str(line).startswith("@"):
        yield f"{line!r} is not a line of cron with five fields.", _FIVE


_FIELDS = ("minute", "hour", "day of the month", "month", "weekday")
_FIVE = f"Write five fields ({', '.join(_FIELDS)}), like 0 20 * * 1-5."


def _not_cron(line: str) -> str:
    try:
        Cron(line).next(datetime.datetime.fromtimestamp(0, datetime.UTC))
    except CronError as error:
        return str(error)
    return ""


def _elastic(line: str) -> dict[str, Any]:
    found = _WHEN.fullmatch(line.strip())
    if found is None:
        raise OneflowerError(f"{line!r} is not a condition with a change.", _EXAMPLE, ExitCode.USAGE)
    change, options = found["change"], dict.fromkeys(_OPTIONS, "")
    for word in found["options"].split():
        name, _, value = word.partition("=")
        if name not in options or not value.isdecimal():
            raise OneflowerError(f"{word!r} in {line!r} is not known.", _EXAMPLE, ExitCode.USAGE)
        options[name] = value
    kind = "CARDINALITY" if "=" in change else "PERCENTAGE_CHANGE" if "%" in change else "CHANGE"
    return {
        "type": kind,
        "adjust": int(change.strip("=% ")),
        "expression": found["expression"].strip(),
        **{key: int(options[word] or usual) for word, (key, usual) in _OPTIONS.items()},
    }


def _scheduled(line: str) -> dict[str, Any]:
    found = _SCHEDULE.fullmatch(line.strip())
    if found is None:
        raise OneflowerError(
            f"{line!r} is not a time with a number of SuperNodes.", "Write it as '0 20 * * * = 8'.", ExitCode.USAGE
        )
    recurrence = " ".join(found["cron"].split())
    return {"type": "CARDINALITY", "adjust": int(found["number"]), "recurrence": recurrence, "cooldown": COOLDOWN}
