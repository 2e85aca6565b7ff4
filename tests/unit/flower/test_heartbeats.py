"""Heartbeats of SuperNodes, recorded together, before Flower's own application."""

from __future__ import annotations

import asyncio
import functools
import time
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.superlink import main as superlink
from starlette.responses import Response

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.visits import Limits, Visit, Visits
from oneflower_appliance.flower.warm import bundles, heartbeats, longpoll, work
from oneflower_appliance.flower.warm import pulse as pulses
from oneflower_appliance.flower.warm.heartbeats import Heartbeats
from oneflower_appliance.flower.warm.longpoll import LongPoll
from oneflower_appliance.flower.warm.pulse import Pulse, spare_heartbeats
from oneflower_appliance.flower.warm.questions import NODE_PULL_WHOLE
from tests.unit.flower_state import linkstate_factory
from tests.unit.signing import SuperNode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

BEAT, PULL, PUSH = "/v1/fleet/send-node-heartbeat", "/v1/fleet/pull-messages", "/v1/runtime/push-messages"
GET_RUN = "/v1/fleet/get-run"
HOUR = 3600


@functools.cache
def application():
    """Return Flower's application: making it takes a while, and what it keeps is in its state."""
    return superlink.create_app()


class Link:
    """Flower's application, of which it is noted what it was asked, behind what records heartbeats; and two nodes."""

    def __init__(self, folder):
        self.app, self.asked, self.written = application(), [], []
        self.app.state.enable_supernode_auth = True
        self.app.state.linkstate_factory = linkstate_factory(folder)
        self.state = self.app.state.linkstate_factory.state()
        self.members = [SuperNode(), SuperNode()]
        self.nodes = [self.state.create_node("nobody", "nobody", member.key, 0) for member in self.members]
        for node in self.nodes:
            assert self.state.activate_node(node, 30)
        self.poll = LongPoll(self.flower)
        self.poll.heartbeats = Heartbeats(self.app, self.app.state.linkstate_factory, self.poll.turn)
        write = self.poll.heartbeats._write
        self.poll.heartbeats._write = lambda *args: self.written.append(args[0]) or write(*args)
        self.visits = {}

    async def flower(self, scope, receive, send):
        self.asked.append(scope["path"])
        if scope["path"] != PUSH:
            await self.app(scope, receive, send)

    async def post(self, path, message, headers, connection=0):
        visit = self.visits.setdefault(connection, Visit("", None, Visits(Limits(9, 9, 9, 9))))

        async def door(scope, receive, send):
            await self.poll(scope | {"state": {VISIT: visit}}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://x") as client:
            return await client.post(path, content=message.SerializeToString(), headers=headers)

    def beat(self, sender, node, *, interval=30, **signed):
        request = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=interval)
        return self.post(BEAT, request, sender.headers(**signed))

    def pull(self, sender, node, connection=0, wait=0.05):
        headers = sender.headers() | {"prefer": f"wait={wait}", "oneflower-heartbeat": "30"}
        return self.post(PULL, PullMessagesRequest(node=Node(node_id=node)), headers, connection)

    def info(self, node):
        return self.state.get_node_info(node_ids=[node])[0]

    def until(self, node):
        return self.info(node).online_until - time.time()

    def hide(self, node, until):
        """Let a node have sent its last heartbeat so long ago that it is online for `until` seconds more."""
        sql = internals.link_states()
        with self.state.session() as session:
            session.execute(
                sql.update(sql.NodeModel)
                .where(sql.NodeModel.node_id == sql.uint64_to_int64(node))
                .values(online_until=time.time() + until)
            )


@pytest.fixture
def link(monkeypatch, tmp_path):
    monkeypatch.setattr(heartbeats, "_TOGETHER", 0.02)
    return Link(tmp_path)


def test_heartbeats_of_many_nodes_are_recorded_in_one_statement_as_flower_records_one(link):
    async def scenario():
        for node in link.nodes:
            link.hide(node, 1)
        answers = await asyncio.gather(*map(link.beat, link.members, link.nodes))
        assert [SendNodeHeartbeatResponse.FromString(answer.content).success for answer in answers] == [True, True]

    asyncio.run(scenario())
    assert [len(keys) for keys in link.written] == [2]
    assert link.asked == []
    for node in link.nodes:
        assert 30 < link.until(node) < 60
    assert link.state.acknowledge_node_heartbeat(link.nodes[0], 30)
    as_flower, as_ours = (link.info(node).online_until for node in link.nodes)
    assert as_ours < as_flower


def test_a_request_for_a_message_and_its_objects_counts_as_one_for_a_message(link):
    asked = PullMessagesRequest(node=Node(node_id=link.nodes[0])).SerializeToString()
    named = {**link.members[0].headers(), "oneflower-heartbeat": "30"}
    scope = {
        "path": NODE_PULL_WHOLE,
        "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
    }

    async def scenario():
        beat = link.poll.heartbeats.take(scope, bundles.Request.write(asked))
        assert (beat.key, beat.node) == (link.members[0].key, link.nodes[0])
        assert await beat.recorded
        assert link.poll.heartbeats.take(scope, b"cut") is None

    asyncio.run(scenario())


def test_a_node_that_was_offline_is_online_again_since_now(link):
    node = link.nodes[0]
    link.hide(node, -1)
    before = link.info(node)
    assert before.status == "offline"
    asyncio.run(link.beat(link.members[0], node))
    after = link.info(node)
    assert after.status == "online"
    assert after.last_activated_at > before.last_activated_at


def test_a_heartbeat_that_is_not_a_nodes_own_is_refused_by_flower_and_changes_nothing(link):
    own, other = link.members
    attacks = {
        "not signed": (own, {"signed": "yesterday"}),
        "an old one": (own, {"age": HOUR}),
        "by another member": (other, {}),
        "by a stranger": (SuperNode(), {}),
        "to be online always": (own, {"interval": 10 * HOUR}),
    }
    link.hide(link.nodes[0], 5)
    for name, (sender, how) in attacks.items():
        answer = asyncio.run(link.beat(sender, link.nodes[0], **how))
        assert answer.status_code in (400, 401, 412), name
        assert link.until(link.nodes[0]) < 5, name
    assert link.asked == [BEAT] * len(attacks)


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 30))


async def held_in_vain(link):
    """Ask for messages until Flower is no longer asked, and the last request was recorded as a heartbeat."""
    while True:
        before = len(link.asked)
        answer = await link.pull(link.members[0], link.nodes[0])
        if len(link.asked) == before and answer.headers["oneflower-heartbeat"] == "recorded":
            return answer


def test_a_held_request_for_messages_is_a_heartbeat_and_is_held_again_without_asking_flower(link):
    async def scenario():
        first = await link.pull(link.members[0], link.nodes[0])
        assert link.asked == [PULL]
        return first, await held_in_vain(link)

    link.hide(link.nodes[0], 5)
    first, again = run(scenario())
    assert (again.status_code, again.content) == (200, first.content)
    assert link.until(link.nodes[0]) > 29


def test_news_another_connection_and_the_end_of_trust_have_flower_asked_again(link, monkeypatch):
    async def asks(connection=0):
        before = len(link.asked)
        await link.pull(link.members[0], link.nodes[0], connection)
        return len(link.asked) > before

    async def scenario():
        await held_in_vain(link)
        await link.post(PUSH, PullMessagesRequest(), {})
        assert await asks()
        await held_in_vain(link)
        assert await asks(connection=1)
        await held_in_vain(link)
        monkeypatch.setattr(longpoll, "_TRUSTED", 0.0)
        assert await asks()

    run(scenario())


def test_a_node_that_is_unregistered_is_refused_though_nothing_else_has_happened(link):
    async def scenario():
        await held_in_vain(link)
        link.state.delete_node("nobody", link.nodes[0])
        return await link.pull(link.members[0], link.nodes[0], wait=25)

    answer = run(scenario())
    assert answer.status_code == 401
    assert "oneflower-heartbeat" not in answer.headers


@pytest.mark.parametrize(("what", "said"), [("over", {}), ("stuck", {"oneflower-work": "stuck"})])
def test_a_node_that_works_hears_at_once_that_its_run_or_its_round_has_ended(link, monkeypatch, what, said):
    """Flower, asked about the run, refuses one that has ended; that a round has ended is only known to our SuperLink."""
    monkeypatch.setattr(work, "_BETWEEN_LOOKS", 0.01)
    going, looked = {17, 18}, []

    class State:
        def of_those_going(self, runs):
            looked.append(runs)
            if what == "over" and len(looked) > 1:
                going.discard(17)
            return runs & going

    class Late:
        def stuck(self, nodes):
            return nodes & ({link.nodes[0]} if what == "stuck" and len(looked) > 1 else set())

    async def flower(scope, receive, send):
        link.asked.append(scope["path"])
        await Response(b"the run", 200 if 17 in going else 409)(scope, receive, send)

    async def scenario():
        link.poll._app = flower
        link.poll.look_after_work(State(), Late())
        headers = {"prefer": "wait=25", "oneflower-heartbeat": "30"}
        asked = [
            link.post(GET_RUN, GetRunRequest(node=Node(node_id=node), run_id=run), member.headers() | headers)
            for member, node, run in zip(link.members, link.nodes, (17, 18), strict=True)
        ]
        first, second = map(asyncio.ensure_future, asked)
        answer = await first
        assert {17, 18} in looked, "one look for all"
        assert not second.done()
        second.cancel()
        return answer

    answer = run(scenario())
    assert answer.status_code == (409 if what == "over" else 200)
    assert {name: answer.headers[name] for name in said} == said
    assert ("preference-applied" in answer.headers) == (what == "over"), "the next request comes after a pause"
    assert len(link.asked) == 3


def test_if_the_database_cannot_be_written_flower_is_asked(link, monkeypatch, caplog):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(link.poll.heartbeats, "_write", full)
    answer = asyncio.run(link.beat(link.members[0], link.nodes[0]))
    assert SendNodeHeartbeatResponse.FromString(answer.content).success
    assert link.asked == [BEAT]
    assert "no space left" in caplog.text


class Client:
    """What stands for Flower's client of a SuperLink."""

    def __init__(self, *, interceptors=()):
        self.interceptors, self.sent = interceptors, 0

    def SendNodeHeartbeat(self, request):  # noqa: N802 - Flower's name
        self.sent += 1
        return SimpleNamespace(success=True)


def test_no_heartbeat_is_sent_while_a_request_waits_that_counts_as_one(monkeypatch):
    monkeypatch.setattr(internals, "fleet_client", lambda: Client)
    monkeypatch.setattr(pulses, "_HELD", -1.0)
    heard = []
    listener = SimpleNamespace(note_heard=heard.append)
    for name in ("__init__", "SendNodeHeartbeat"):
        monkeypatch.setattr(Client, name, getattr(Client, name))
    spare_heartbeats(listener)
    client = Client(interceptors=["Flower's"])
    pulse = client.interceptors[1]
    assert isinstance(pulse, Pulse)

    def pull(said, status=200):
        """Return how many heartbeats were sent while a request waited, and say what it is answered with."""

        def waiting(context):
            assert context.request.headers["oneflower-heartbeat"] == "30"
            before = client.sent
            assert client.SendNodeHeartbeat(None).success
            found.append(client.sent - before)
            if said is None:
                raise httpx.ReadTimeout("")
            return httpx.Response(status, headers={"oneflower-heartbeat": said} if said else {})

        found = []
        context = SimpleNamespace(
            rpc_method="/flwr.proto.Fleet/PullMessages", request=httpx.Request("POST", "http://x")
        )
        try:
            pulse.intercept(context, waiting)
        except httpx.ReadTimeout:
            found.append("lost")
        return found

    assert pull("") == [1], "stock Flower"
    assert pull("recorded") == [1], "it is not known yet that this SuperLink counts it"
    assert pull("taken") == [0]
    assert pull("recorded") == [0]
    assert len(heard) == 2
    assert pull(None) == [0, "lost"]
    assert pull("recorded") == [1]
    assert pull("recorded", status=503) == [0]
    assert pull("recorded") == [1]
    before = client.sent
    client.SendNodeHeartbeat(None)
    assert client.sent == before + 1, "no request waits"
