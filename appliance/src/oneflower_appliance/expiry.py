"""When a SuperLink's certificates expire: the agent publishes it, and the owner gets a warning."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from oneflower_appliance.attributes import CERT_EXPIRES

if TYPE_CHECKING:
    from collections.abc import Mapping

WARNED = 14  # days ahead


def published_end(attributes: Mapping[str, str]) -> date | None:
    """Return the date that a SuperLink published, or None."""
    try:
        return date.fromisoformat(CERT_EXPIRES.read(attributes))
    except ValueError:
        return None


def warning(end: date, today: date) -> str:
    """Return a warning if certificates expire soon or have expired, otherwise an empty text."""
    left = (end - today).days
    if left > WARNED:
        return ""
    when = f"in {left} days, on {end}" if left > 1 else f"on {end}" if left >= 0 else f"{-left} days ago, on {end}"
    return (
        f"The SuperLink's certificates {'end' if left >= 0 else 'ended'} {when}; after that no SuperNode can connect. "
        "If they were given (FL_SSL_*), give new ones. Generated ones are replaced between runs; if their CA "
        "ends, deploy the federation again."
    )
