"""Points in time as users write them, and as logs have them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from oneflower_appliance.errors import ExitCode, OneflowerError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def since(text: str, now: float | None = None) -> float:
    """Return the time, in seconds of the epoch, that `--since` means: a duration until `now`, or a time of ISO 8601.

    A time without a zone is in this machine's. Raises `OneflowerError`.
    """
    if found := _DURATION.fullmatch(text.strip()):
        return (time.time() if now is None else now) - float(found[1]) * _UNITS[found[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise OneflowerError(
            f"--since {text!r} is neither a duration nor a time.",
            "Write 30s, 10m, 2h or 1d, or a time such as 2027-01-15T08:00:00Z.",
            ExitCode.USAGE,
        ) from error


def duration(text: str, option: str) -> float:
    """Return how many seconds `text` means, such as 12h or 7d. Raises `OneflowerError` that names the option."""
    if found := _DURATION.fullmatch(text.strip()):
        return float(found[1]) * _UNITS[found[2]]
    raise OneflowerError(f"{option} {text!r} is not a duration.", "Write 30m, 12h or 7d.", ExitCode.USAGE)


def seconds_of(text: str) -> float | None:
    """Return a time of a log, in seconds of the epoch; None if it is not one."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
