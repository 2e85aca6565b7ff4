"""When a SuperLink's certificates expire: the agent publishes it, and the owner gets a warning."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from oneflower_appliance.attributes import CERT_EXPIRES, CERT_RENEWED

if TYPE_CHECKING:
    from collections.abc import Mapping

WARNED = 14  # days ahead


def published_end(attributes: Mapping[str, str]) -> date | None:
    """Return the date that a SuperLink published, or None."""
    try:
        return date.fromisoformat(CERT_EXPIRES.read(attributes))
    except ValueError:
        return None


def is_renewed(attributes: Mapping[str, str]) -> bool:
    """Whether a SuperLink says that it replaces its certificates before they expire."""
    return CERT_RENEWED.is_set(attributes)


def warning(end: date, today: date, *, renewed: bool) -> str:
    """Return a warning if certificates expire soon or have expired, otherwise an empty text.

    Those that are `renewed` are replaced at half of their life, so they are no reason before they have expired.
    """
    left = (end - today).days
    if left > WARNED or (renewed and left >= 0):
        return ""
    when = f"in {left} days, on {end}" if left > 1 else f"on {end}" if left >= 0 else f"{-left} days ago, on {end}"
    return (
        f"The SuperLink's certificates {'end' if left >= 0 else 'ended'} {when}; after that no SuperNode can connect. "
        "If they were given (FL_SSL_*), give new ones. Generated ones are replaced at half of their life, and these "
        "were not: look at the log of the SuperLink's agent. If its CA has ended, deploy the federation again."
    )
