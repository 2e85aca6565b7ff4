"""A message and its objects in one request: both sides, before Flower's own application and state."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.redelivery import Redeliveries
from oneflower_appliance.flower.warm import bundle_client, bundles, whole_client, whole_server
from oneflower_appliance.flower.warm.bundle_server import BundleServer
from oneflower_appliance.flower.warm.kept import Kept
from oneflower_appliance.flower.warm.shortcuts import Shortcuts
from tests.unit.flower_state import objects_in_memory
from tests.unit.served import PROTOBUF
from tests.unit.signing import SuperNode

from . import test_linkstate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

MODEL = ArrayRecord([np.full(9, number, dtype=np.float32) for number in range(4)])
PULL, PUSH = "pull-whole-messages", "push-whole-messages"


class Client:
    """A client of one API, with the headers of a task or of a node, which notes the calls that it makes."""

    def __init__(self, app, api, headers):
        self.app, self.api, self.headers, self.made = app, api, headers, []

    def _unary_unary(self, *, path, rpc_method, request, response_type):
        status, content = self.post(path, request.SerializeToString(deterministic=True))
        if status != 200:
            raise httpx.HTTPStatusError("", request=None, response=httpx.Response(status, content=content))
        result = response_type()
        result.ParseFromString(content)
        return result

    def post(self, path, body):
        self.made.append(path.rpartition("/")[2])

        async def ask():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post(path, headers=self.headers() | PROTOBUF, content=body)

        answer = asyncio.run(ask())
        return answer.status_code, answer.content

    def call(self, name, request, response_type):
        return self._unary_unary(
            path=f"/v1/{self.api}/{name}", rpc_method="", request=request, response_type=response_type
        )


class Link:
    """A SuperLink of ours, with a ServerApp and two nodes, which have keys."""

    def __init__(self, fleet):
        self.fleet, self.state = fleet, fleet.state
        self.flower = internals.superlink_application().create_app()
        factory = SimpleNamespace(state=lambda: fleet.state)
        self.flower.state.linkstate_factory = self.flower.state.runtime_state_factory = factory
        self.app = whole_server.WholeServer(BundleServer(Shortcuts(self.flower), factory), factory)
        self.nodes, self.clients = [], []
        for _ in range(2):
            member = SuperNode()
            self.nodes.append(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, member.key, 30))
            assert self.state.activate_node(self.nodes[-1], 30)
            self.clients.append(self.ours("fleet", member.headers, Kept()))
        token = internals.core_constants().TASK_TOKEN_HEADER
        self.task = self.ours("runtime", lambda: {token: fleet.token})

    def ours(self, api, headers, kept=None, app=None):
        calls = whole_client._Calls(api, kept, dict)
        acts = {f"/v1/{api}/{name}": getattr(calls, name.split("-")[0])
                for name in ("pull-messages", "push-messages", "confirm-message-received")}  # fmt: skip
        kind = type("Ours", (Client,), {})
        kind._unary_unary = whole_client._instead(kind._unary_unary, acts)
        client = kind(app or self.app, api, headers)
        client.kept = kept
        return client

    def message(self, content=None, node=0):
        TaskIdentity._node_id = SUPERLINK_NODE_ID
        content = content or RecordDict({"arrays": MODEL, "config": ConfigRecord({"round": 1})})
        return named(Message(content, dst_node_id=self.nodes[node], message_type="train"))

    def send(self, *messages, largest=bundles.PART):
        """Send messages as Flower's grid does; return what the other end lacks after it."""
        module = SimpleNamespace(get_object_tree=get_object_tree, get_all_nested_objects=get_all_nested_objects)
        whole_client.note_messages(module, largest)
        for message in messages:
            module.get_all_nested_objects(message)
        request = PushAppMessagesRequest(
            messages_list=[bare(message) for message in messages],
            message_object_trees=[module.get_object_tree(message) for message in messages],
        )
        return self.task.call("push-messages", request, PushAppMessagesResponse)

    def fetch(self, client, node):
        """Fetch a message as Flower's SuperNode does; return its name and its objects."""
        request = PullMessagesRequest(node=Node(node_id=node))
        found = client.call("pull-messages", request, PullMessagesResponse)
        return self.taken(client, found, Node(node_id=node))

    def taken(self, client, found, node):
        if not found.messages_list:
            return None, {}
        [tree], name = found.message_object_trees, found.messages_list[0].metadata.message_id
        pull = bundle_client._fetching(inflatable_utils.pull_objects, client.kept)

        def unavailable(one):
            raise ObjectPullError(one, "it is asked for by itself")

        try:
            objects = pull(list(bundles.below(tree)), unavailable)
        except ObjectPullError:
            return name, {}
        request = ConfirmMessageReceivedRequest(node=node, run_id=self.fleet.run, message_object_id=name)
        client.call("confirm-message-received", request, ConfirmMessageReceivedResponse)
        if client.kept:
            client.kept.confirm()
        return name, objects

    def reply(self, client, node, content):
        """Reply to the last message that a node got, as Flower's SuperNode does; return what is lacking after it."""
        TaskIdentity._node_id = node
        reply = named(Message(content, reply_to=self.sent))
        store = {name: one.deflate() for name, one in get_all_nested_objects(reply).items()}
        answers = []

        def push(state, object_store):
            request = PushMessagesRequest(node=Node(node_id=node), messages_list=[bare(reply)], message_object_trees=[
                get_object_tree(reply)], clientapp_runtime_list=[0.1])  # fmt: skip
            answers.append(client.call("push-messages", request, PushMessagesResponse))

        loop = SimpleNamespace(_push_messages=push)
        whole_client.note_store(loop)
        loop._push_messages(state=None, object_store=store)
        return answers[0], store

    def replies(self):
        request = PullAppMessagesRequest(message_ids=[self.sent.metadata.message_id])
        found = self.task.call("pull-messages", request, PullAppMessagesResponse)
        return self.taken(self.task, found, Node(node_id=SUPERLINK_NODE_ID))


def named(message):
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def bare(message):
    return message_to_proto(internals.grid().remove_content_from_message(message))


fleet = test_linkstate.fleet  # a fixture


@pytest.fixture
def link(tmp_path, monkeypatch, request):
    objects_in_memory(monkeypatch, tmp_path)
    return Link(request.getfixturevalue("fleet"))


def contents(message):
    return {name: one.deflate() for name, one in get_all_nested_objects(message).items()}


def test_a_message_and_its_reply_take_one_request_each_way_and_hop(link):
    link.sent = message = link.message()
    expected = contents(message)
    assert not link.send(message).objects_to_push
    node, client = link.nodes[0], link.clients[0]
    assert link.fetch(client, node) == (message.object_id, expected)
    assert not link.state.object_store.store.keys() & expected.keys(), "it is confirmed"
    answer, reply = link.reply(client, node, RecordDict({"arrays": ArrayRecord([np.ones(5)])}))
    assert answer.session_id
    assert not answer.objects_to_push
    assert link.replies()[1] == reply
    assert link.state.object_store.store.keys().isdisjoint(reply)
    assert (link.task.made, client.made) == ([PUSH, PULL], [PULL, PUSH])


def lose(client, node):
    """Ask for a message as a SuperNode does, and do not receive the answer."""
    asked = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    assert client.post(f"/v1/fleet/{PULL}", bundles.Request.write(asked, bundles.write_wanted(())))[0] == 200


@pytest.fixture
def again(link, monkeypatch):
    """The SuperLink gives lost messages again."""
    for name in ("get_message_ins", "store_message_and_object_tree"):
        monkeypatch.setattr(internals.link_state(), name, getattr(internals.link_state(), name))
    found = Redeliveries()
    found.start(link.fleet.link, link.fleet.late)
    link.app._redeliveries = found
    return found


@pytest.mark.usefixtures("again")
def test_a_message_whose_answer_was_lost_is_given_again_with_its_objects(link):
    """As when a line is cut in silence while a SuperNode waits: it asks again, and knows of no message."""
    link.sent = message = link.message()
    link.send(message)
    node, client = link.nodes[0], link.clients[0]
    lose(client, node)
    assert link.fetch(client, node) == (message.object_id, contents(message))
    assert client.made == [PULL, PULL], "with its objects, and no request more"
    assert link.state.object_store.store.keys() >= contents(message).keys(), "until it has replied"
    _, reply = link.reply(client, node, RecordDict({"arrays": ArrayRecord([np.ones(5)])}))
    assert link.state.object_store.store.keys().isdisjoint(contents(message))
    assert link.replies()[1] == reply
    assert link.fetch(client, node) == (None, {}), "a message that is answered does not come again"


@pytest.mark.usefixtures("again")
def test_a_lost_message_that_nobody_waits_for_does_not_come_again(link):
    node, client = link.nodes[0], link.clients[0]
    link.send(late := link.message())
    lose(client, node)
    link.fleet.abandoned.note({node: late.object_id})
    assert link.fetch(client, node) == (None, {})
    link.send(link.message(RecordDict({"config": ConfigRecord({"round": 2})})))
    lose(client, node)
    link.state.stop_run(link.fleet.run)
    assert link.fetch(client, node)[1] == {}


def test_what_a_node_has_does_not_come_again(link):
    link.send(link.message())
    node, client = link.nodes[0], link.clients[0]
    _, first = link.fetch(client, node)
    link.send(message := link.message(RecordDict({"arrays": MODEL, "config": ConfigRecord({"round": 2})})))
    bodies, stock = [], client.post
    client.post = lambda path, body: bodies.append(stock(path, body)) or bodies[-1]
    assert link.fetch(client, node)[1] == contents(message)
    came = bundles.Answer.FromString(bundles.Whole.FromString(bodies[0][1]).objects).objects
    assert set(came) == contents(message).keys() - first.keys()
    assert len(came) == 3, "the message, its content, and what is new in it"


def test_a_node_gets_and_changes_nothing_of_another_node(link):
    link.sent = message = link.message(node=0)
    link.send(message)
    mine, thief = link.nodes
    robber = link.clients[1]
    assert link.fetch(robber, thief) == (None, {}), "there is nothing for it"
    with pytest.raises(httpx.HTTPStatusError) as refused:
        link.fetch(robber, mine)
    assert refused.value.response.status_code == 401, "its key is not that of the other node"
    asked = PullMessagesRequest(node=Node(node_id=thief)).SerializeToString()
    known = bundles.write_wanted(contents(message))
    status, body = robber.post(f"/v1/fleet/{PULL}", bundles.Request.write(asked, known))
    assert (status, bundles.Whole.FromString(body)) == (200, bundles.Whole(b"", bundles.NOBODY, memoryview(b"")))
    for headers in (dict, lambda: {"flwr-task-token": "x"}):
        stranger = Client(link.app, "fleet", headers)
        for api in ("fleet", "runtime"):
            for call in (PULL, PUSH):
                path, payload = f"/v1/{api}/{call}", b"x" * 8 if api == "runtime" else b""
                assert stranger.post(path, bundles.Request.write(asked, payload))[0] in (400, 401), path
    name, objects = link.fetch(link.clients[0], mine)
    assert (name, objects) == (message.object_id, contents(message)), "it is still there for its own node"


def test_objects_that_are_not_those_of_the_message_are_not_taken(link):
    link.sent = link.message()
    link.send(link.sent)
    node, client = link.nodes[0], link.clients[0]
    link.fetch(client, node)
    TaskIdentity._node_id = node
    reply = named(Message(RecordDict({"config": ConfigRecord({"a": 1})}), reply_to=link.sent))
    request = PushMessagesRequest(
        node=Node(node_id=node), messages_list=[bare(reply)], message_object_trees=[get_object_tree(reply)]
    )
    right, wrong = contents(reply), contents(link.message(RecordDict({"config": ConfigRecord({"other": 2})})))
    forged = {**wrong, **dict.fromkeys(right, b"forged")}
    path = f"/v1/fleet/{PUSH}"
    status, body = client.post(
        path, bundles.Request.write(request.SerializeToString(), *bundles.write_objects(forged.items()))
    )
    assert status == 200
    assert set(PushMessagesResponse.FromString(body).objects_to_push) == set(right), "nothing was taken"
    store = link.state.object_store
    assert {name: store.get(name) for name in (*right, *wrong)} == dict.fromkeys(right, b"") | dict.fromkeys(wrong)
    for cut in (b"", b"\0\0\0\xff", body[:3], bundles.Request.write(request.SerializeToString(), b"cut")):
        assert client.post(path, cut)[0] in (400, 500), "and Flower is not asked, or refuses"


def test_what_is_not_whole_comes_without_objects_and_is_not_confirmed(link, monkeypatch):
    link.sent = message = link.message()
    lacking = link.send(message, largest=20).objects_to_push
    assert set(lacking) == {
        name for name, one in get_all_nested_objects(message).items() if len(getattr(one, "data", b"")) > 20
    }
    node, client = link.nodes[0], link.clients[0]
    assert link.fetch(client, node) == (message.object_id, {})
    assert link.state.object_store.store.keys() >= contents(message).keys()
    link.send(other := link.message(RecordDict({"arrays": ArrayRecord([np.full(9, 7.0)])})))
    monkeypatch.setattr(whole_server, "LITTLE", 100)
    assert link.fetch(client, node) == (other.object_id, {}), "large ones come by themselves"


def test_a_message_of_a_run_that_was_stopped_brings_no_objects(link):
    link.send(message := link.message())
    link.state.stop_run(link.fleet.run)
    name, objects = link.fetch(link.clients[0], link.nodes[0])
    assert name in (None, message.object_id)
    assert objects == {}


def test_stock_flower_at_the_other_end_is_asked_once_and_gets_its_own_requests(link):
    node, client = link.nodes[0], link.ours("fleet", link.clients[0].headers, Kept(), link.flower)
    for _ in range(2):
        assert link.fetch(client, node) == (None, {})
    assert client.made == [PULL, "pull-messages", "pull-messages"]
    link.send(message := link.message())
    stock = Client(link.app, "fleet", link.clients[0].headers)
    found = stock.call("pull-messages", PullMessagesRequest(node=Node(node_id=node)), PullMessagesResponse)
    assert found.messages_list[0].metadata.message_id == message.object_id, "and a stock node is served by ours"
