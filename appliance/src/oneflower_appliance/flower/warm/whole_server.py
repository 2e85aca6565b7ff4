"""Gives and takes a message together with its objects, in one request: the server's side.

Flower needs a request for the message, others for its objects, and one to confirm them. Here a client makes one
request, and the server makes those requests to Flower and to `bundle_server`, one after the other, with the headers of
the client. So what a SuperNode or a task may fetch and hand over is decided where it was. What does not fit is left to
requests of its own: from the moment that Flower has given a message away, nothing that follows is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.longpoll import Answer, ask, body_of
from oneflower_appliance.flower.warm.shared_memory import PLACE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from oneflower_appliance.flower.redelivery import Redeliveries

FLEET, RUNTIME = "/v1/fleet/", "/v1/runtime/"
_MEDIA = "application/protobuf"  # what Flower's client expects
LITTLE = 2 * 2**20  # bytes of objects that come with a message to a SuperNode; more comes faster by `downloads`


class WholeServer:
    """ASGI middleware before a `BundleServer`, whose states come from `states`.

    If `redeliveries` are active, messages that SuperNodes fetch are confirmed by them.
    """

    def __init__(self, app: ASGIApp, states: Any, redeliveries: Redeliveries | None = None) -> None:
        self._app = app
        self._redeliveries = redeliveries
        self._states = states
        self._messages = internals.object_messages()
        self._here = internals.constants().SUPERLINK_NODE_ID
        fleet, runtime = internals.fleet_messages(), internals.runtime_messages()
        self._pulls = {
            FLEET + bundles.PULL_WHOLE: (FLEET, fleet.PullMessagesRequest, fleet.PullMessagesResponse),
            RUNTIME + bundles.PULL_WHOLE: (
                RUNTIME, runtime.PullAppMessagesRequest, runtime.PullAppMessagesResponse,
            ),
        }  # fmt: skip
        self._pushes = {
            FLEET + bundles.PUSH_WHOLE: (FLEET, fleet.PushMessagesRequest, fleet.PushMessagesResponse),
            RUNTIME + bundles.PUSH_WHOLE: (
                RUNTIME, runtime.PushAppMessagesRequest, runtime.PushAppMessagesResponse,
            ),
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for or with a whole message; pass on all others."""
        path = scope.get("path", "")
        if path not in self._pulls and path not in self._pushes:
            await self._app(scope, receive, send)
            return
        body = await body_of(receive)
        if body is None:
            return
        try:
            asked = bundles.Request.read(body)
            answer = await (self._pull if path in self._pulls else self._push)(scope, asked)
        except ValueError as error:
            answer = PlainTextResponse(f"Not a valid bundle: {error}.\n", 400)
        await (answer.response() if isinstance(answer, Answer) else answer)(scope, receive, send)

    async def _pull(self, scope: Scope, asked: bundles.Request) -> Answer | Response:
        api, request, response = self._pulls[scope["path"]]
        shared, has = asked.split(PLACE if api == RUNTIME else 0)
        known = set(bundles.read_wanted(has.payload))
        given = await ask(self._app, scope, f"{api}pull-messages", asked.flower)
        found = response.FromString(given.body) if given.status == 200 else None
        if found is None:
            return given
        whole, objects = bundles.NOBODY, b""
        if found.messages_list:
            who = self._who(api, request.FromString(asked.flower), found.messages_list[0])
            wanted = list(dict.fromkeys(bundles.below(found.message_object_trees[0], known)))
            if await run_in_threadpool(self._fits, api, wanted):
                call = bundles.PULL_SHARED if shared else bundles.PULL_OBJECTS
                payload = bundles.Request.write(who.SerializeToString(), shared, bundles.write_wanted(wanted))
                handed = await ask(self._app, scope, api + call, payload)
                objects = handed.body if handed.status == 200 else b""
            if objects and _count(objects, shared=bool(shared)) == len(wanted):
                whole = who.object_id if await self._confirms(scope, api, who) else whole
        return Response(bundles.write_whole(given.body, whole, objects), media_type=_MEDIA)

    async def _confirms(self, scope: Scope, api: str, who: Any) -> bool:
        """Confirm a message, now or when its reply comes."""
        if api == FLEET and self._redeliveries and self._redeliveries.is_active:
            self._redeliveries.came_whole(who.node.node_id, who.object_id)
            return True
        confirm = self._messages.ConfirmMessageReceivedRequest(
            node=who.node, run_id=who.run_id, message_object_id=who.object_id
        )
        confirmed = await ask(self._app, scope, f"{api}confirm-message-received", confirm.SerializeToString())
        return confirmed.status == 200

    async def _push(self, scope: Scope, asked: bundles.Request) -> Answer | Response:
        api, request, response = self._pushes[scope["path"]]
        shared, handed = asked.split(PLACE if api == RUNTIME else 0)
        offered = bundles.slices(handed.payload, table=bool(shared))
        sent = await ask(self._app, scope, f"{api}push-messages", asked.flower)
        found = response.FromString(sent.body) if sent.status == 200 else None
        chosen = {name: offered[name] for name in found.objects_to_push if name in offered} if found else {}
        if found is None or not chosen:
            return sent
        said = request.FromString(asked.flower)
        who = self._who(api, said, said.messages_list[0])
        call = bundles.PUSH_SHARED if shared else bundles.PUSH_OBJECTS
        payload = bundles.Request.write(
            who.SerializeToString(), shared, *bundles.named(found.session_id), *chosen.values()
        )
        stored = await ask(self._app, scope, api + call, payload)
        if stored.status == bundles.NO_ROOM:
            return stored
        if stored.status == 200 and self._messages.PushObjectResponse.FromString(stored.body).stored:
            left = [name for name in found.objects_to_push if name not in chosen]
            del found.objects_to_push[:]
            found.objects_to_push.extend(left)
        return Response(found.SerializeToString(), media_type=_MEDIA)

    def _who(self, api: str, request: Any, message: Any) -> Any:
        """Return Flower's request for an object of a message, as the client would make it."""
        who = self._messages.PullObjectRequest(run_id=message.metadata.run_id, object_id=message.metadata.message_id)
        if api == FLEET:
            who.node.CopyFrom(request.node)
        else:
            who.node.node_id = self._here
        return who

    def _fits(self, api: str, wanted: list[str]) -> bool:
        """Whether objects are all there, and few enough to come with their message."""
        store = self._states.state().object_store
        size, most = 0, LITTLE if api == FLEET else bundles.PART
        with store.lock_store:
            for name in wanted:
                entry = store.store.get(name)
                if entry is None or not entry.is_available or not isinstance(entry.content, bytes):
                    return False
                size += len(entry.content)
        return size < most and 0 < len(wanted) <= bundles.MOST


def _count(objects: bytes, *, shared: bool) -> int:
    """Return how many objects there are, of those that exist."""
    if shared:
        return len(bundles.Table.FromString(objects).names)
    return sum(content is not None for _, content in bundles.views(memoryview(objects)))
