"""The one thing that is told by Flower's words, because Flower tells it in no other way.

A run whose ServerApp stopped sending heartbeats is finished and failed, as any other run that fails. Only the text of
its details says that it was lost: there is no code, no event and no constant for it in Flower 1.41 and 1.42. A release
that words it otherwise fails a test of this module; runs that are lost so are then not resumed by themselves.
"""

from __future__ import annotations

_NO_HEARTBEAT = "No heartbeat"


def lost_its_heartbeat(details: str) -> bool:
    """Whether the details of a run that has failed say that its ServerApp was lost."""
    return _NO_HEARTBEAT in details
