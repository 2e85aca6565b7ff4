"""How the servers of the local cloud refuse a request."""

from __future__ import annotations

import json

from oneflower_appliance.errors import OneflowerError


class CloudError(OneflowerError):
    """A refusal with the HTTP status and the plain text that the real server would send."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class CoreError(CloudError):
    """A refusal for which the core has the code of an internal error, and other servers nothing of their own."""

    def __init__(self, text: str) -> None:
        super().__init__(500, text)


def internal(reason: str) -> CloudError:
    """Return OneFlow's answer to an uncaught exception."""
    return CloudError(500, json.dumps({"message": "Internal server error", "reason": reason}, separators=(",", ":")))
