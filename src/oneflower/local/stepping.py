"""The one call that OneFlow does not have: it advances a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.clock import Clock, SteppedClock
from oneflower.local.errors import CloudError
from oneflower.local.wire import Call, html, json_body

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_LONGEST_STEP = 10_000_000


class ClockCalls:
    """The call, if the clock can be advanced."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def advance(self, request: Request) -> Response:
        """Advance the clock."""
        body = await json_body(request)
        seconds = body.get("advance") if isinstance(body, dict) else None
        if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_STEP:
            raise CloudError(400, f"advance must be a number of seconds, at most {_LONGEST_STEP}")
        if isinstance(self._clock, SteppedClock):
            self._clock.advance(seconds)
        return html({"now": self._clock.now()})

    def table(self) -> list[Call]:
        """Return the call, or nothing for a clock that moves by itself."""
        stepped = isinstance(self._clock, SteppedClock)
        return [Call("POST", "/oneflower/clock", self.advance)] if stepped else []
