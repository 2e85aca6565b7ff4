"""What confined tasks may ask of their SuperNode: nothing that is for its SuperExec.

The SuperExec asks for the next task without any key, and what it gets is all that it takes to be that task. A task that
did so could read the model of another run and answer in its place. The two run as the same user, but a confined task,
and the relay through which it connects, are in user namespaces of their own.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK
from oneflower_appliance.peers import peer_inode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PROCESSES = Path("/proc")


class TaskDoor:
    """ASGI middleware before a SuperNode's application, where tasks are confined."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it. Who is at the other end of a connection is looked up once."""
        if scope.get("path") != ACQUIRE_TASK:
            await self._app(scope, receive, send)
            return
        visit = scope["state"][VISIT]
        if visit.confined is None:
            visit.confined = not await run_in_threadpool(_is_outside, scope)
        if visit.confined:
            await PlainTextResponse("Tasks are for the SuperExec.\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_outside(scope: Scope) -> bool:
    """Whether the processes at the other end of a connection are all in this process's user namespace."""
    inode = peer_inode(tuple(scope["client"][:2]), tuple(scope["server"][:2]))
    return bool(inode) and namespaces_of(inode) == {_namespace(_PROCESSES / "self")}


def namespaces_of(inode: int) -> set[str]:
    """Return the user namespaces of the processes that have a socket."""
    found, wanted = set(), f"socket:[{inode}]"
    for process in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):
            if any(_is(path, wanted) for path in (process / "fd").iterdir()):
                found.add(_namespace(process))
    return found


def _is(path: Path, wanted: str) -> bool:
    with suppress(OSError):
        return str(path.readlink()) == wanted
    return False


def _namespace(process: Path) -> str:
    return str((process / "ns" / "user").readlink())
