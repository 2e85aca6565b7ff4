"""Records the heartbeats of all SuperNodes together.

Flower writes into its database for each heartbeat, after a way through its whole application. With many nodes that was
most of what an idle SuperLink did. Here what arrives within half a second is recorded in one statement. A request that
is held counts as a heartbeat, too, if its SuperNode says so (see `pulse`). Each has a valid signature, and is recorded
for the node whose key signed it. Whatever is unusual goes to Flower, which refuses it in its own words.

A node is listed as offline as early as by Flower: the time of a record is when the first of its heartbeats arrived.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.membership import Membership, NotAMemberError
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.headers import HEARTBEAT, RECORDED, TAKEN
from oneflower_appliance.flower.warm.questions import GET_RUN, NODE_PULL, NODE_PULL_WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastapi import FastAPI
    from starlette.types import Scope

PATH = "/v1/fleet/send-node-heartbeat"
_TOGETHER = 0.5  # seconds
_IN_ONE_STATEMENT = 500  # keys: SQLite limits the number of values

log = logging.getLogger("flwr")


@dataclass(eq=False)
class Heartbeat:
    """A heartbeat that has arrived: from the node of a public key, which is to send the next within `interval` s."""

    key: bytes
    node: int
    interval: float
    recorded: asyncio.Future[bool]
    answer: bytes

    @property
    def state(self) -> str:
        """What its SuperNode is told: whether it is recorded already. Nothing if it is refused."""
        return "" if self.is_refused else RECORDED if self.recorded.done() else TAKEN

    @property
    def is_refused(self) -> bool:
        """Whether Flower does not know the node, or the heartbeat could not be recorded."""
        return self.recorded.done() and not self.recorded.result()


class Heartbeats:
    """The heartbeats of the SuperNodes of the SuperLink that `flower` is the application of."""

    def __init__(self, flower: FastAPI, factory: Any, turn: asyncio.Semaphore) -> None:
        self._membership = Membership(flower)
        self._factory = factory
        self._turn = turn  # to write into the database
        self._messages = internals.heartbeat_messages()
        self._held = {
            NODE_PULL: internals.fleet_messages().PullMessagesRequest,
            NODE_PULL_WHOLE: internals.fleet_messages().PullMessagesRequest,
            GET_RUN: internals.run_messages().GetRunRequest,
        }
        constants = internals.constants()
        self._shortest, self._longest = constants.HEARTBEAT_MIN_INTERVAL, constants.HEARTBEAT_MAX_INTERVAL
        self._waiting: list[Heartbeat] = []
        self._recording: asyncio.Task[None] | None = None
        self._accepted: bytes = self._messages.SendNodeHeartbeatResponse(success=True).SerializeToString()

    def take(self, scope: Scope, body: bytes) -> Heartbeat | None:
        """Take a request that is a heartbeat, or counts as one. Return None if it is none, or Flower has to see it."""
        path, headers = scope["path"], Headers(scope=scope)
        try:
            if path == PATH:
                request = self._messages.SendNodeHeartbeatRequest.FromString(body)
                interval = request.heartbeat_interval
            elif path in self._held:
                said = body if path != NODE_PULL_WHOLE else bundles.Request.read(body).flower
                request, interval = self._held[path].FromString(said), float(headers.get(HEARTBEAT, "0"))
            else:
                return None
            if not self._shortest <= interval <= self._longest:
                return None
            key = self._membership.signer(headers)
        except NotAMemberError:
            return None
        except Exception:  # noqa: BLE001 - what protobuf raises is not of one class; Flower refuses it
            return None
        loop = asyncio.get_running_loop()
        found = Heartbeat(key, request.node.node_id, interval, loop.create_future(), self._accepted)
        self._waiting.append(found)
        if self._recording is None or self._recording.done():
            self._recording = loop.create_task(self._record(loop.time()))
        return found

    async def _record(self, arrived: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_TOGETHER)
        async with self._turn:
            heartbeats, self._waiting, self._recording = self._waiting, [], None
            known: dict[bytes, int] = {}
            try:
                for interval in {heartbeat.interval for heartbeat in heartbeats}:
                    keys = list({heartbeat.key for heartbeat in heartbeats if heartbeat.interval == interval})
                    known |= await run_in_threadpool(self._write, keys, interval, lambda: loop.time() - arrived)
            except Exception as error:  # noqa: BLE001 - any error: Flower is asked, and answers for itself
                log.warning("Heartbeats could not be recorded together: %s", error)
        for heartbeat in heartbeats:
            if not heartbeat.recorded.done():
                heartbeat.recorded.set_result(known.get(heartbeat.key) == heartbeat.node)

    def _write(self, keys: list[bytes], interval: float, age: Callable[[], float]) -> dict[bytes, int]:
        """Record the heartbeats of these keys as Flower's state does. Return the node of each key that is known."""
        sql, patience = internals.link_states(), internals.constants().HEARTBEAT_PATIENCE
        nodes = sql.NodeModel
        known: dict[bytes, int] = {}
        with self._factory.state().session() as session:
            now = sql.now()
            for some in _parts(keys):
                recording = (
                    sql.update(nodes)
                    .execution_options(synchronize_session=False)
                    .where(nodes.public_key.in_(some), nodes.status != sql.NodeStatus.UNREGISTERED)
                    .values(
                        online_until=now.timestamp() - age() + patience * interval,
                        heartbeat_interval=interval,
                        last_activated_at=sql.case(
                            (nodes.status != sql.NodeStatus.ONLINE, now.isoformat()), else_=nodes.last_activated_at
                        ),
                        status=sql.NodeStatus.ONLINE,
                    )
                    .returning(nodes.public_key, nodes.node_id)
                )
                known |= {bytes(key): sql.int64_to_uint64(node) for key, node in session.execute(recording).all()}
        return known


def _parts(keys: list[bytes]) -> Iterable[list[bytes]]:
    return (keys[start : start + _IN_ONE_STATEMENT] for start in range(0, len(keys), _IN_ONE_STATEMENT))
