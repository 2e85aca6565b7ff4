"""What confined tasks may ask of their SuperNode: nothing that is for its SuperExec.

The SuperExec asks for the next task without any key, and what it gets is all that it takes to be that task. A task that
did so could read the model of another run and answer in its place. Both run as the same user. But a task without egress
connects through a relay only, and that comes from an address of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from oneflower_appliance.flower.relay import COMES_FROM
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class TaskDoor:
    """ASGI middleware before a SuperNode's application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope.get("path") == ACQUIRE_TASK and scope["client"][0] == COMES_FROM:
            await PlainTextResponse("Tasks are for the SuperExec.\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
