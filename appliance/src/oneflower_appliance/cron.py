"""When a schedule starts a run: lines of cron with five fields, in a time zone.

The fields are minute, hour, day of the month, month and weekday: each `*`, a number, a range `a-b`, one of these with a
step `/n`, or a list of them. Weekdays are 0 to 7, and 0 and 7 are Sunday; months and weekdays may be names (jan, mon).
A day needs to match both kinds of days, or one of them if neither has a `*`. Source: crontab(5) of Debian's cron.

A time that the clocks skip that day is as much later as they jump. One that they show twice is the first of the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import count
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of the months
_PART = re.compile(r"(\*|(?P<first>\w+)(-(?P<last>\w+))?)(/(?P<step>\d{1,3}))?", re.ASCII)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    first: int = 0  # the number of the first name

    def read(self, text: str) -> frozenset[int]:
        found: set[int] = set()
        for part in text.lower().split(","):
            match = _PART.fullmatch(part)
            step = int(match["step"] or 1) if match else 0
            if match is None or step == 0:
                raise ValueError(f"{part!r} is not a valid {self.name}")
            least, most = self.least, self.most
            if match["first"]:
                least = self._number(match["first"])
                most = self._number(match["last"]) if match["last"] else most if match["step"] else least
            if least > most:
                raise ValueError(f"{part!r} is not a valid {self.name}: its end is before its start")
            found |= set(range(least, most + 1, step))
        return frozenset(found)

    def _number(self, text: str) -> int:
        number = self.names.index(text) + self.first if text in self.names else int(text) if text.isdecimal() else -1
        if not self.least <= number <= self.most:
            raise ValueError(f"{text!r} is not a valid {self.name}, from {self.least} to {self.most}")
        return number


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS, 1),
    _Field("weekday", 0, 7, _WEEKDAYS),
)


@dataclass(frozen=True)
class Cron:
    """A line of cron. A day matches `either` kind of days, or both."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    @classmethod
    def parse(cls, line: str) -> Cron:
        """Read a line. Raises `ValueError` with what is wrong with it."""
        words = line.split()
        if len(words) != len(_FIELDS):
            raise ValueError(f"{line.strip()!r} has {len(words)} fields, not 5")
        either = not words[2].startswith("*") and not words[4].startswith("*")
        minutes, hours, days, months, weekdays = (field.read(word) for field, word in zip(_FIELDS, words, strict=True))
        found = cls(minutes, hours, days, months, weekdays, either)
        if not found.either and min(found.days) > max(_LONGEST[month - 1] for month in found.months):
            raise ValueError(f"{line.strip()!r} never comes: none of its months has such a day")
        return found

    def is_on(self, day: date) -> bool:
        """Whether it has times on a day."""
        matches = (day.day in self.days, bool({day.isoweekday(), day.isoweekday() % 7} & self.weekdays))
        return day.month in self.months and (any(matches) if self.either else all(matches))

    def times(self, day: date) -> set[time]:
        """Return its times on a day."""
        return {time(hour, minute) for hour in self.hours for minute in self.minutes} if self.is_on(day) else set()


@dataclass(frozen=True)
class Timetable:
    """All times of some lines of cron, in a time zone."""

    lines: tuple[Cron, ...]
    zone: tzinfo

    @classmethod
    def parse(cls, text: str, zone: str) -> Timetable:
        """Read lines, separated by semicolons. Raises `ValueError` with what is wrong."""
        return cls(tuple(Cron.parse(line) for line in text.split(";")), read_zone(zone))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after `moment`, which has a zone, in their order and in their own zone. There is no last."""
        begin = moment.astimezone(self.zone).date()
        for day in (begin + number * _DAY for number in count()):
            found = {time for line in self.lines for time in line.times(day)}
            # As UTC and back, so that a time that the clocks skip becomes one that they show.
            there = {datetime.combine(day, time, self.zone).astimezone(UTC) for time in found}
            yield from (at.astimezone(self.zone) for at in sorted(there) if at > moment)


def read_zone(name: str) -> tzinfo:
    """Return a time zone. Raises `ValueError` if this machine does not know it."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:  # an unknown zone is a KeyError
        raise ValueError(name) from error
