"""A SuperNode that is about to leave: what its process does, and what the SuperLink then sends it."""

from __future__ import annotations

import asyncio
import signal
import threading
from types import SimpleNamespace

import httpx
import pytest
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.superlink import main as superlink

from oneflower_appliance.flower import draining, internals
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.draining import Draining
from oneflower_appliance.flower.leaving import HEADER, Leaving
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.warm.longpoll import LongPoll
from oneflower_appliance.flower.warm.questions import NODE_PULL
from oneflower_appliance.orders import DRAIN
from oneflower_appliance.training.departed import Departed
from tests.unit.flower.test_longpoll import Client, Flower, asked
from tests.unit.flower_state import linkstate_factory
from tests.unit.served import ADDRESS, PLAIN, Counting, Served
from tests.unit.signing import SuperNode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


# The SuperLink's side


def test_a_node_says_only_of_itself_that_it_leaves_and_is_back_when_it_is_activated(tmp_path):
    app, leaving, nodes = superlink.create_app(), Leaving(Departed(tmp_path / "d")), [SuperNode(), SuperNode()]
    state = app.state.linkstate_factory.state()
    numbers = [state.create_node("nobody", "nobody", node.key, 0) for node in nodes]
    door = FleetDoor(app, Counting("ours"), Membership(app), leaving=leaving)
    with Served(OwnDoor(app), door) as served:

        def post(path, message, headers):
            url = f"http://{ADDRESS}:{served.fleet[1]}/v1/fleet/{path}"
            return httpx.post(url, content=message.SerializeToString(), headers=headers, trust_env=False, verify=PLAIN)

        def activate(node):
            request = ActivateNodeRequest(public_key=node.key, heartbeat_interval=30)
            return post("activate-node", request, node.headers())

        assert activate(nodes[0]).status_code == 200
        pull = PullMessagesRequest(node=Node(node_id=numbers[0]))
        stranger = post("pull-messages", pull, SuperNode().headers() | {HEADER: "1"})
        other = post("pull-messages", pull, nodes[1].headers() | {HEADER: "1"})
        assert (stranger.status_code, other.status_code) == (401, 401)
        assert not leaving.has(nodes[0].key.hex()), "others said it"
        assert post("pull-messages", pull, nodes[0].headers() | {HEADER: "1"}).status_code == 200
        assert leaving.has(nodes[0].key.hex())
        state.deactivate_node(numbers[0])
        assert activate(nodes[0]).status_code == 200
        assert not leaving.has(nodes[0].key.hex())


def test_no_run_sees_a_node_that_leaves(tmp_path, monkeypatch):
    stock = SqlLinkState.get_nodes
    monkeypatch.setattr(SqlLinkState, "get_nodes", stock)
    monkeypatch.setattr(SqlLinkState, "delete_node", SqlLinkState.delete_node)
    state, departed = linkstate_factory(tmp_path).state(), Departed(tmp_path / "departed.json")
    leaving = Leaving(departed)
    keys = [b"stays", b"goes"]
    nodes = [state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 30) for key in keys]
    for node in nodes:
        assert state.activate_node(node, 30)
    run = state.create_run("us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
    leaving.hide()
    assert state.get_nodes(run) == set(nodes)
    leaving.note(keys[1].hex(), NODE_PULL, "1")
    assert state.get_nodes(run) == {nodes[0]}
    state.deactivate_node(nodes[1])
    assert state.get_nodes(run) == {nodes[0]}
    assert departed.nodes() == {nodes[1]}, "runs do not count it as missing"
    leaving = Leaving(departed)  # of a SuperLink that was started again
    leaving.hide()
    assert state.get_nodes(run) == {nodes[0]}
    assert departed.nodes() == {nodes[1]}
    assert state.activate_node(nodes[1], 30)
    monkeypatch.setattr(SqlLinkState, "get_nodes", stock)
    leaving.hide()
    assert state.get_nodes(run) == set(nodes)
    assert departed.nodes() == set(), "it is back"


def test_a_node_that_left_and_was_unregistered_before_any_run_looked_is_missed_by_none(tmp_path, monkeypatch):
    for name in ("get_nodes", "delete_node"):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    state, departed = linkstate_factory(tmp_path).state(), Departed(tmp_path / "departed.json")
    leaving = Leaving(departed)
    left, evicted = (state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 30) for key in (b"left", b"evicted"))
    leaving.hide()
    leaving.note(b"left".hex(), NODE_PULL, "1")
    for node in (left, evicted):
        state.delete_node(NOOP_FLWR_AID, node)
    assert departed.nodes() == {left}


def test_a_request_that_is_held_is_answered_when_its_node_leaves(tmp_path):
    async def scenario():
        flower, leaving = Flower(0), Leaving(Departed(tmp_path / "d"), lambda: poll.wake(NODE_PULL))
        poll = LongPoll(flower, leaving=leaving)
        question = asyncio.ensure_future(Client(poll, who="ab").ask(NODE_PULL, wait=20))
        await asked(flower, NODE_PULL, 1)
        assert not question.done()
        leaving.note("ab", NODE_PULL, "1")
        assert (await question)[0] == b""

    asyncio.run(asyncio.wait_for(scenario(), 10))


# The SuperNode's side


class Loop:
    """Flower's loop in a SuperNode: what its next requests for a message bring, and what was sent with each."""

    def __init__(self, monkeypatch):
        self.brings, self.stopped, self.headers, self.heard = [], 0, [], threading.Event()
        client = internals.fleet_client()
        monkeypatch.setattr(client, "__init__", lambda fleet, interceptors=(): setattr(fleet, "added", interceptors))
        monkeypatch.setattr(client, "SendNodeHeartbeat", lambda fleet, request: self._heartbeat(request))
        monkeypatch.setattr(internals.node_loop(), "_pull_and_store_message", self._pull)
        monkeypatch.setattr(draining, "_PAUSE", 0.0)
        monkeypatch.setattr(draining, "_ON_THE_WAY", -1.0)
        self.draining = Draining(self._stop)
        self.draining.start()
        self.fleet = client()

    def _stop(self):
        self.stopped += 1

    def _heartbeat(self, request):
        assert request.node.node_id == 7
        self.heard.set()

    def _pull(self, state, object_store=None, get_run=None):
        context = SimpleNamespace(request=SimpleNamespace(headers={}))
        self.fleet.added[-1].intercept(context, lambda _: None)
        self.headers.append(HEADER in context.request.headers)
        return self.brings.pop(0) if self.brings else None

    def turn(self):
        state = SimpleNamespace(get_node_id=lambda: 7)
        return internals.node_loop()._pull_and_store_message(state=state)


@pytest.fixture
def loop(monkeypatch):
    before = signal.getsignal(DRAIN)
    yield Loop(monkeypatch)
    signal.signal(DRAIN, before)


def test_a_node_takes_what_was_sent_to_it_and_stops_when_nothing_is_left(loop, monkeypatch):
    assert loop.turn() is None
    assert (loop.stopped, loop.headers) == (0, [False])
    signal.raise_signal(DRAIN)
    assert loop.heard.wait(10)
    loop.draining._told = 0.0  # the answer to the heartbeat has arrived
    loop.brings = [5]
    assert loop.turn() == 5
    assert loop.stopped == 0, "a message had been sent to it"
    assert loop.turn() is None
    assert loop.stopped == 0, "its run may not have fetched the reply, and gets none of a node that is offline"
    monkeypatch.setattr(draining, "_FETCHED", -1.0)
    assert loop.turn() is None
    assert (loop.stopped, loop.headers[1:]) == (1, [True] * 3)


def test_a_node_does_not_stop_before_the_superlink_knows(loop, monkeypatch):
    monkeypatch.setattr(loop.draining, "_tell", lambda: None)
    signal.raise_signal(DRAIN)
    assert loop.turn() is None
    assert loop.stopped == 0


def test_a_release_of_flower_that_lacks_a_name_stops_at_once(monkeypatch):
    before = signal.getsignal(DRAIN)
    stopped = []
    monkeypatch.delattr(internals.heartbeat_messages(), "SendNodeHeartbeatRequest")
    Draining(lambda: stopped.append(1)).start()
    try:
        signal.raise_signal(DRAIN)
    finally:
        signal.signal(DRAIN, before)
    assert stopped == [1]
