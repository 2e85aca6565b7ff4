"""One stream of events for each page that is open: parts of the page as HTML, rounds and log lines as JSON.

A part is sent when it has changed, so that nothing is asked again and again.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractContextManager

    from starlette.responses import Response

    from oneflower.web.signal import Signal

    # What a page shows: within its block, what is needed is looked at, and calling it returns events as they are now.
    Source = AbstractContextManager[Callable[[], Iterable[tuple[str, str]]]]

_MOST = 32
_STILL_THERE = 15.0  # seconds after which a comment is sent, so that a browser that has gone is noticed
_TOGETHER = 0.05  # seconds: what changes at about the same time is sent once
_ENDS_OF_LINES = re.compile(r"\r\n|\r|\n")


def event(name: str, data: str) -> str:
    """Return an event. A line of its own in the data could otherwise be read as another event."""
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in _ENDS_OF_LINES.split(data)) + "\n"


def as_json(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class Streams:
    """The streams that are open."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._open = 0
        self._closing = False

    def close(self) -> None:
        """End all of them."""
        self._closing = True
        self._signal.notify()

    def answer(self, source: Source) -> Response:
        """Answer with the events of a page, until it is closed."""
        if self._open >= _MOST:
            return PlainTextResponse("Too many pages are open. Close some.\n", 503)
        return StreamingResponse(self.events(source), media_type="text/event-stream")

    async def events(self, source: Source) -> AsyncIterator[str]:
        """Yield events until the stream ends: those of the source that are not as they were."""
        self._open += 1
        sent: dict[str, str] = {}
        try:
            with source as parts, self._signal.listening() as changed:
                while not self._closing:
                    changed.clear()
                    for name, data in parts():
                        if sent.get(name) != data:
                            sent[name] = data
                            yield event(name, data)
                    try:
                        await asyncio.wait_for(changed.wait(), _STILL_THERE)
                    except TimeoutError:
                        yield ": still there\n\n"
                    else:
                        await asyncio.sleep(_TOGETHER)
        finally:
            self._open -= 1
