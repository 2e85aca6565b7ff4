"""Gives and takes the objects of a message in bundles: the server's side, in SuperLinks and SuperNodes.

A SuperNode gets only objects of messages that are for it. A task gets only objects of its own run. What else is asked
for does not exist. What is handed over must be expected in the session that Flower opened for it, as with Flower's own
call, and must have its hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.headers import BUNDLE
from oneflower_appliance.flower.warm.longpoll import ask, body_of
from oneflower_appliance.flower.warm.shared_memory import PLACE, AlreadyWrittenError, NotSharedError, SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

_FLEET, _RUNTIME, _ONE = "/v1/fleet/", "/v1/runtime/", "pull-object"
_MEDIA = "application/protobuf"  # what Flower's client expects


class NoRoomError(Exception):
    """There is neither memory nor disk for what was handed over. The text says what to do."""


class BundleServer:
    """ASGI middleware before one of Flower's applications, whose states come from `states`."""

    def __init__(self, app: ASGIApp, states: Any) -> None:
        self._app = app
        self._states = states
        self._messages = internals.object_messages()
        self._token = internals.core_constants().TASK_TOKEN_HEADER
        acts: dict[str, Callable[[Any, bool, Headers, bundles.Request], bytes]] = {
            bundles.PULL_OBJECTS: self._give, bundles.PUSH_OBJECTS: self._take,
        }  # fmt: skip
        self._acts = {(api + call): (api, act) for api in (_FLEET, _RUNTIME) for call, act in acts.items()}
        self._acts[_RUNTIME + bundles.PULL_SHARED] = (_RUNTIME, self._share)
        self._acts[_RUNTIME + bundles.PUSH_SHARED] = (_RUNTIME, self._take_shared)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for or with a bundle; pass on all others."""
        api, act = self._acts.get(scope.get("path", ""), ("", None))
        if act is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await body_of(receive)
            if body is None:
                return
            asked = bundles.Request.read(body)
            allowed = await ask(self._app, scope, api + _ONE, asked.flower)
            if allowed.status != 200:
                await allowed.send(send)
                return
            content = await run_in_threadpool(act, self._states.state(), api == _FLEET, Headers(scope=scope), asked)
            answer = Response(content, media_type=_MEDIA)
        except ValueError as error:
            answer = PlainTextResponse(f"Not a valid bundle: {error}.\n", 400)
        except NotSharedError as error:  # as if the call did not exist: the task then uses the other one
            answer = PlainTextResponse(f"No shared memory: {error}.\n", 404)
        except NoRoomError as error:
            answer = PlainTextResponse(f"{error}\n", bundles.NO_ROOM)
        except AlreadyWrittenError as error:
            answer = PlainTextResponse(f"The shared memory was {error}.\n", 409)
        await answer(scope, receive, send)

    def _give(self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request) -> bytes:  # noqa: FBT001
        return b"".join(bundles.write_objects(self._found(state, fleet, headers, asked)))

    def _share(self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request) -> bytes:  # noqa: FBT001
        place, asked = asked.split(PLACE)
        with SharedMemory.of(place) as memory:
            found = self._found(state, fleet, headers, asked)
            if not found:
                return b""  # it is asked again
            there = {name: content for name, content in found if content is not None}
            spans = memory.write(there.values())
            return bundles.write_table(there, spans, [name for name, content in found if content is None])

    def _take(self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request) -> bytes:  # noqa: FBT001
        return self._store(state, fleet, headers, asked, *bundles.read_handed(asked.payload))

    def _take_shared(self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request) -> bytes:  # noqa: FBT001
        place, asked = asked.split(PLACE)
        session, table = bundles.read_handed_table(asked.payload)
        with SharedMemory.of(place) as memory:
            objects = list(zip(table.names, memory.read(table.spans), strict=True))
        return self._store(state, fleet, headers, asked, session, objects)

    def _found(
        self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request,  # noqa: FBT001
    ) -> list[tuple[str, bytes | None]]:  # fmt: skip
        who = self._messages.PullObjectRequest.FromString(asked.flower)
        run = who.run_id if fleet else self._run(state, headers)
        store = state.object_store
        if fleet:
            its_own = _is_for(state, who.object_id, who.node.node_id)
        else:
            its_own = who.object_id in store.run_objects_mapping.get(run, ())
        own = _below(store, who.object_id) if its_own else set()
        found: list[tuple[str, bytes | None]] = []
        size, most = 0, _most(headers)
        for name in bundles.read_wanted(asked.payload):
            # If it is not there yet, and never will be, Flower forgets it.
            content = state.get_object(run, name) if name in own else None
            if content is None and not fleet and (reason := getattr(store, "lost", {}).get(name)):
                raise NoRoomError(reason)
            if content != b"":
                found.append((name, content))
                size += len(content or b"")
            if size >= most:
                break
        if fleet and size:
            store.fetched(name for name, content in found if content)
            state.store_traffic(run, bytes_sent=size, bytes_recv=0)
        return found

    def _store(
        self, state: Any, fleet: bool, headers: Headers, asked: bundles.Request,  # noqa: FBT001
        session: str, objects: list[tuple[str, bytes]],
    ) -> bytes:  # fmt: skip
        who = self._messages.PullObjectRequest.FromString(asked.flower)
        run = who.run_id if fleet else self._run(state, headers)
        refused = getattr(state.object_store, "refused", 0)
        # One that is there already counts: the bundle was sent again, because its answer was lost.
        stored = all(
            state.store_object(run, session, name, content) or state.object_store.get(name) for name, content in objects
        )
        if not stored and getattr(state.object_store, "refused", 0) != refused:
            raise NoRoomError(state.object_store.reason)
        if fleet and stored:
            state.store_traffic(run, bytes_sent=0, bytes_recv=sum(len(content) for _, content in objects))
        answer: bytes = self._messages.PushObjectResponse(stored=stored).SerializeToString()
        return answer

    def _run(self, state: Any, headers: Headers) -> int:
        task = state.get_task_by_token(headers.get(self._token, ""))
        if task is None:
            raise ValueError("the task has ended")
        run: int = task.run_id
        return run


def _most(headers: Headers) -> int:
    """Return how many bytes of objects an answer may have."""
    wanted = headers.get(BUNDLE, "")
    return min(int(wanted), bundles.PART) if wanted.isdecimal() and wanted.isascii() else bundles.PART


def _is_for(state: Any, message: str, node: int) -> bool:
    """Whether a message that is not answered yet is for a node."""
    sql = internals.link_states()
    mine = sql.select(sql.MessageInsModel.message_id).where(
        sql.MessageInsModel.message_id == message, sql.MessageInsModel.dst_node_id == sql.uint64_to_int64(node)
    )
    with state.session() as session:
        return session.scalar(mine) is not None


def _below(store: Any, root: str) -> set[str]:
    """Return the names of an object and of all objects below it."""
    found: set[str] = set()
    left = [root]
    with store.lock_store:
        while left:
            name = left.pop()
            if name not in found and (entry := store.store.get(name)):
                found.add(name)
                left += entry.child_object_ids
    return found
