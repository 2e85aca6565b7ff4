"""What was looked at before a machine takes part: each check, with what was found and how to correct it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OK, WARN, FAIL = "ok", "warn", "fail"
_MOST = 40  # checks that are published
_LONGEST = 400  # characters of each


class Topic(StrEnum):
    """What a machine of a site looks at. The coordinator learns these words only, of what is not in order."""

    SUPERLINK = "SuperLink"
    CERTIFICATE = "certificate"
    CLOCK = "clock"
    POLICY = "policy"
    GPU = "GPU"
    MEMORY = "memory"
    DISK = "disk"
    DATA = "data"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ok, warn or fail, what was found, and how to correct it."""

    status: str
    what: str
    detail: str
    fix: str = ""

    @property
    def sentence(self) -> str:
        """What was found, and what to do."""
        return f"{self.what}: {self.detail.rstrip('.')}." + (f" {self.fix}" if self.fix else "")


def pack(checks: Iterable[Check]) -> str:
    """Return what `unpack` reads: the worst first, and of very many only so many."""
    order = (FAIL, WARN, OK)
    first = sorted(checks, key=lambda check: order.index(check.status))[:_MOST]
    return json.dumps([{name: text[:_LONGEST] for name, text in asdict(check).items()} for check in first])


def unpack(text: str) -> tuple[Check, ...]:
    """Return the checks that a machine published; none if they cannot be read."""
    try:
        found = tuple(Check(**{name: str(value) for name, value in each.items()}) for each in json.loads(text or "[]"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()
    return found if all(check.status in (OK, WARN, FAIL) for check in found) else ()


def troubles(checks: Iterable[Check]) -> list[Check]:
    """Return those that are not in order."""
    return [check for check in checks if check.status != OK]


def known_topics(words: Iterable[object]) -> tuple[str, ...]:
    """Return those words that are topics, each once."""
    said = {word for word in words if isinstance(word, str)}
    return tuple(topic for topic in Topic if topic in said)
