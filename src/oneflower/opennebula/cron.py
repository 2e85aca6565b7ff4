"""When a scheduled policy recurs. OneFlow uses the gem parse-cron, and this reads a line of cron as the gem does.

It accepts less than other crons (no `5/15`, no names of more than three letters) and more (@hourly). It has a rule of
its own: a day matches when the day of the month or the weekday matches, unless one of them is a bare `*`. If a month
does not have the day that is asked for, it takes the first. Source: cron_parser.rb.
"""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

_NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {name: str(number) for number, name in [*enumerate(_MONTHS, 1), *enumerate(_WEEKDAYS)]}
_PART = re.compile(r"^(\d+)(-(\d+)(/(\d+))?)?$", re.MULTILINE)
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_WIDEST = 10_000
_SUNDAY_AGAIN = 7


class CronError(ValueError):
    """A line that parse-cron refuses."""


class Cron:
    """A line of cron. Raises `CronError`."""

    def __init__(self, line: str) -> None:
        fields = re.split(r"\s+", _NICKNAMES.get(line, line).rstrip())
        if not 5 <= len(fields) <= 6:
            raise CronError("not a valid cronline")
        for name, number in _NAMES.items():
            fields = [field.lower().replace(name, number) for field in fields]
        self._minutes, self._hours, self._days, self._months, self._weekdays = (
            _numbers(field, *bounds) for field, bounds in zip(fields, _RANGES, strict=False)
        )
        if not fields[2] == fields[4] == "*":
            self._days = [] if fields[2] == "*" else self._days
            self._weekdays = [] if fields[4] == "*" else self._weekdays

    def next(self, after: datetime.datetime) -> datetime.datetime:
        """Return the first time after `after`, in its time zone. Raises `CronError` if there is none."""
        moment = _Moment(after.year, after.month, after.day, after.hour, after.minute)
        if moment.month not in self._months:
            self._to_month(moment)
            moment.day = 0
        if moment.day not in self._days_of(moment):
            self._to_day(moment)
            moment.hour = -1
        if moment.hour not in self._hours:
            self._to_hour(moment)
            moment.minute = -1
        self._to_minute(moment)
        try:
            return datetime.datetime(
                moment.year, moment.month, moment.day or 1, moment.hour, moment.minute, tzinfo=after.tzinfo
            )
        except (ValueError, OverflowError) as error:
            raise CronError(str(error)) from error

    def _to_minute(self, moment: _Moment) -> None:
        moment.minute, turned = _following(moment.minute, self._minutes)
        if turned:
            self._to_hour(moment)

    def _to_hour(self, moment: _Moment) -> None:
        moment.hour, turned = _following(moment.hour, self._hours)
        if turned:
            self._to_day(moment)

    def _to_day(self, moment: _Moment) -> None:
        days = self._days_of(moment)
        moment.day, turned = _following(moment.day, days) if days else (0, True)
        if turned:
            self._to_month(moment)

    def _to_month(self, moment: _Moment) -> None:
        moment.month, turned = _following(moment.month, self._months)
        moment.year += turned
        days = self._days_of(moment)
        moment.day = days[0] if days else 0

    def _days_of(self, moment: _Moment) -> list[int]:
        try:
            first, length = calendar.monthrange(moment.year, moment.month)
        except ValueError as error:
            raise CronError(str(error)) from error
        weekdays = {number % 7 for number in self._weekdays if number <= _SUNDAY_AGAIN}
        return [
            day for day in range(1, length + 1)
            if day in self._days or (first + day) % 7 in weekdays
        ]  # fmt: skip


@dataclass
class _Moment:
    """A time during the search. Day 0 means a day that does not exist."""

    year: int
    month: int
    day: int
    hour: int
    minute: int


def _following(current: int, allowed: list[int]) -> tuple[int, bool]:
    """Return the next of the allowed numbers, and whether the search wrapped around to the first."""
    later = next((number for number in allowed if number > current), None)
    if later is not None:
        return later, False
    if not allowed:
        raise CronError("no time is allowed")
    return allowed[0], True


def _numbers(field: str, first: int, last: int) -> list[int]:
    found: list[int] = []
    for part in field.split(","):
        if part.startswith("*"):
            found += _stepped(first, last, int(_leading(part[2:])) if len(part) > 1 else 1)
        elif match := _PART.match(part):
            start = int(match[1])
            end, step = int(match[3] or start), int(match[5] or 1)
            found += _stepped(start, end, step)
        else:
            raise CronError(f"Bad Vixie-style specification {part}")
    return sorted(found)


def _leading(text: str) -> str:
    match = re.match(r"\d{1,4}", text)
    return match[0] if match else "0"


def _stepped(first: int, last: int, step: int) -> list[int]:
    if step == 0 or max(first, last) > _WIDEST:
        raise CronError("divided by 0" if step == 0 else "argument out of range")
    return list(range(first, last + 1, step))
