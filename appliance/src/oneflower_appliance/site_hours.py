"""The hours of a site: windows of a week, in a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.cron import read_zone

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60  # minutes
_WINDOW = re.compile(
    rf"(?P<first>{'|'.join(DAYS)})(-(?P<last>{'|'.join(DAYS)}))? "
    r"(?P<from>\d\d:\d\d)-(?P<to>\d\d:\d\d)"
)  # fmt: skip


@dataclass(frozen=True)
class Hours:
    """The windows, as `texts`, and each as its first minute of the week and its length in minutes."""

    zone: str
    texts: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, zone: str, texts: Sequence[str]) -> Hours:
        """Read windows, like `Mon-Fri 20:00-06:00`. Raises `ValueError`, a line for each problem."""
        problems, windows = [], []
        try:
            read_zone(zone)
        except ValueError:
            problems.append(f"zone {zone!r} is not a time zone that this machine knows, like Europe/Madrid or UTC")
        for text in texts:
            try:
                windows += _windows(text)
            except ValueError:
                problems.append(f"open {text!r} is not a window; expected one like Mon-Fri 20:00-06:00")
        if problems:
            raise ValueError("\n".join(problems))
        return cls(zone, tuple(texts), tuple(windows))

    def are_open(self, now: datetime) -> bool:
        """Whether a time, which has a zone, is in one of the windows."""
        here = now.astimezone(read_zone(self.zone))
        minute = here.weekday() * _DAY + here.hour * 60 + here.minute
        return any((minute - start) % (7 * _DAY) < length for start, length in self.windows)

    def __str__(self) -> str:
        return f"{', '.join(self.texts) or 'none'} ({self.zone})"


def _windows(text: str) -> list[tuple[int, int]]:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(text)
    first, start, end = DAYS.index(found["first"]), _minute(found["from"]), _minute(found["to"])
    last = DAYS.index(found["last"]) if found["last"] else first
    days = [(first + more) % 7 for more in range((last - first) % 7 + 1)]
    length = end - start if end > start else end - start + _DAY
    return [(day * _DAY + start, length) for day in days]


def _minute(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > _DAY:
        raise ValueError(text)
    return hours * 60 + minutes
