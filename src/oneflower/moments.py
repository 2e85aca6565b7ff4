"""Points in time as users write them, and as logs have them."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import read_duration


def since(text: str, now: float | None = None) -> float:
    """Return the time, in seconds of the epoch, that `--since` means: a duration until `now`, or a time of ISO 8601.

    A time without a zone is in this machine's. Raises `OneflowerError`.
    """
    with contextlib.suppress(ValueError):
        return (time.time() if now is None else now) - read_duration(text)
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
    try:
        return read_duration(text)
    except ValueError as error:
        hint = "Write 30m, 12h or 7d."
        raise OneflowerError(f"{option} {text!r} is not a duration.", hint, ExitCode.USAGE) from error


def seconds_of(text: str) -> float | None:
    """Return a time of a log, in seconds of the epoch; None if it is not one."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
