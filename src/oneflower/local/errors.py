"""What the servers of the local cloud refuse, and how."""

from __future__ import annotations

import json

from oneflower_appliance.errors import OneflowerError


class CloudError(OneflowerError):
    """A refusal as the real server would put it: HTTP status and plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def internal(reason: str) -> CloudError:
    """Return what OneFlow answers to an exception that nobody caught."""
    return CloudError(500, json.dumps({"message": "Internal server error", "reason": reason}, separators=(",", ":")))
