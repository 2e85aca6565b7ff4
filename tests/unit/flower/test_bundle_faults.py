"""Faults of the transport: our server at a real socket, Flower's clients with our calls, and what goes wrong in between."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink import main as stock
from flwr.supernode import start_client_internal as node_loop
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from oneflower_appliance.flower import bodies, deliveries, door, internals
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.nodeloop import answer_in_turn
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.warm import bundle_client, bundles
from oneflower_appliance.flower.warm.bundle_server import BundleServer
from oneflower_appliance.flower.warm.kept import Kept
from oneflower_appliance.flower.warm.longpoll import PREFER, LongPoll
from oneflower_appliance.flower.warm.questions import REPLIES
from oneflower_appliance.runs import plain_reason
from tests.unit.flower_state import objects_in_memory
from tests.unit.served import ADDRESS, PLAIN, PROTOBUF, Served

from .test_fleet_door import SuperNode
from .test_linkstate import Fleet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

PULL, PUSH = (f"/v1/fleet/{call}" for call in (bundles.PULL_OBJECTS, bundles.PUSH_OBJECTS))


class Fault:
    """ASGI middleware in the server, below its doors: what happens to the next answer or request at a path."""

    def __init__(self, app):
        self._app, self.path, self.change, self.asked = app, "", None, []

    def next_answer(self, path, change):
        """Change the body of the next answer at `path`; what is missing afterwards never comes."""
        self.path, self.change = path, change

    async def __call__(self, scope, receive, send):
        parts = []

        async def asked():
            message = await receive()
            parts.append(message.get("body", b""))
            return message

        if scope.get("path") != self.path or self.change is None:
            await self._app(scope, asked, send)
        else:
            change, self.change = self.change, None
            sent = []

            async def keep(message):
                sent.append(message)

            await self._app(scope, asked, keep)
            body = b"".join(part.get("body", b"") for part in sent)
            changed = change(body)
            await send({**sent[0], "headers": [(b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": changed, "more_body": len(changed) < len(body)})
            if len(changed) < len(body):
                scope["state"][VISIT].drop()
        if scope.get("path") in (PULL, PUSH):
            self.asked.append(b"".join(parts))


class OneNode:
    """A registered SuperNode: its id, and Flower's client with our calls, which tries again at once."""

    def __init__(self, link, number=0):
        self._link = link
        self.key = SuperNode()
        self.id = link.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, self.key.key, 30)
        assert link.state.activate_node(self.id, 30)
        self.client = link.client(FleetHttpClient, "fleet", link.served.fleet, self.key)
        self.pull = bundle_client._fetching(inflatable_utils.pull_objects)

    def fetch(self, names, run=None):
        """Fetch objects as a SuperNode does. The last is the message."""
        pull = make_pull_object_fn_protobuf(self.client.PullObject, Node(node_id=self.id), run or self._link.run)
        return self.pull(list(names), pull)

    def hand(self, objects, session, run=None):
        """Send objects as a SuperNode does."""
        push = make_push_object_fn_protobuf(
            self.client.PushObject, Node(node_id=self.id), run or self._link.run, session
        )
        bundle_client._sending(inflatable_utils.push_object_contents_from_iterable)(iter(objects.items()), push)

    def raw(self, path, body, length=None):
        """Open a connection and send a request by hand, whose body may have another length than it says."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.key.headers().items())
        said = len(body) if length is None else length
        connection = socket.socket()
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.connect(self._link.served.fleet)
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {said}\r\n\r\n".encode() + body
        )
        return connection


class Link:
    """A SuperLink of ours behind its doors, with a run, the client of its ServerApp, and a SuperNode."""

    def __init__(self, folder):
        self.fleet = Fleet(folder, corrected=False)
        self.state, self.run, self.store = self.fleet.state, self.fleet.run, self.fleet.state.object_store
        factory = SimpleNamespace(state=lambda: self.state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stock, "get_objectstore_linkstate_factories", lambda *_: (None, factory))
            self.app = stock.create_app()
        self.app.state.enable_supernode_auth = True
        self.polls = LongPoll(BundleServer(self.app, factory))
        self.fault = Fault(self.polls)
        deliveries.forget_lost_deliveries(lambda: [self.polls.wake(path) for path in REPLIES])
        self.door = FleetDoor(self.fault, self.app, Membership(self.app))
        self.served = Served(OwnDoor(self.fault), self.door)
        self.clients = []
        self.task = self.client(RuntimeHttpClient, "runtime", self.served.control)
        self._numbers = itertools.count(1)

    def client(self, kind, api, address, key=None):
        ours = type("Ours", (kind,), {})
        ours.PullObject = bundle_client._pull_object(kind.PullObject, api)
        ours.PushObject = bundle_client._push_object(kind.PushObject, api)
        signer = (
            NodeAuthHttpInterceptor(key.private, key.private.public_key())
            if key else RuntimeTokenHttpInterceptor(self.fleet.token)
        )  # fmt: skip
        again = RetryInvoker(lambda: itertools.repeat(0.0), (httpx.TransportError, httpx.HTTPStatusError), 50, None,
                             should_giveup=_is_final)  # fmt: skip
        client = ours.from_server_address(f"{ADDRESS}:{address[1]}", True, None, [signer], retry_invoker=again)
        self.clients.append(client)
        return client

    def another_run(self):
        """Start a second run, and return its number."""
        run = self.state.create_run(
            "us/app", "1", "h", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = self.state.get_run_info(run_ids=[run])[0].primary_task_id
        assert self.state.claim_task(task)
        assert self.state.activate_task(task)
        return run

    def message(self, node, arrays=4, size=9, run=None, content=None):
        """Open a session for a new message to a node; return it, the message, and its objects."""
        if content is None:
            number = next(self._numbers)
            values = [np.full(size, 100 * number + n, dtype=np.float32) for n in range(arrays)]
            content = RecordDict({"arrays": ArrayRecord(values)})
        TaskIdentity._run_id, TaskIdentity._node_id = run or self.run, SUPERLINK_NODE_ID
        message = Message(content, dst_node_id=node.id, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(run or self.run)
        assert self.state.store_message_and_object_tree(message, get_object_tree(message), session)[0]
        return session, message, {name: found.deflate() for name, found in get_all_nested_objects(message).items()}

    def put(self, objects, session, run=None):
        """Send objects as a ServerApp does."""
        push = make_push_object_fn_protobuf(
            self.task.PushObject, Node(node_id=SUPERLINK_NODE_ID), run or self.run, session
        )
        bundle_client._sending(inflatable_utils.push_object_contents_from_iterable)(iter(objects.items()), push)

    def sent(self, node, **what):
        """Return a message for a node, with all its objects in the SuperLink, and the objects."""
        session, message, objects = self.message(node, **what)
        self.put({name: content for name, content in objects.items() if not self.store.get(name)}, session)
        return message, objects


def _is_final(error):
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (502, 503, 504)


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("activate_node", "store_message_and_object_tree", "deactivate_node", "delete_node",
                     "_check_and_tag_offline_nodes"):  # fmt: skip
            patch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1, raising=False)
        folder = tmp_path_factory.mktemp("link")
        objects_in_memory(patch, folder)
        link = Link(folder)
        with link.served:
            yield link
            for client in link.clients:
                client.close()


@pytest.fixture
def node(link):
    return OneNode(link)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def places_to_cut(objects):
    """Positions of each class in a bundle: before it, in a hash, in a length, between objects, in one, at the end."""
    first = len(next(iter(objects.values())))
    whole = sum(40 + len(content) for content in objects.values())
    return {0, 5, 36, 40, 40 + first // 2, 40 + first, 40 + first + 3, whole - 1}


def test_an_answer_that_is_cut_anywhere_is_asked_for_again_and_what_came_before_is_not(link, node, monkeypatch):
    _, objects = link.sent(node, arrays=2)
    monkeypatch.setattr(bundles, "PART", 400)
    for position in places_to_cut(objects):
        link.fault.asked.clear()
        link.fault.next_answer(PULL, lambda body, position=position: body[: min(position, len(body) - 1)])
        assert node.fetch(objects) == objects
        wanted = [bundles.read_wanted(bundles.Request.read(body).payload) for body in link.fault.asked]
        assert wanted[0] == wanted[1] == list(objects), "the bundle that was cut is asked for again"
        assert len(wanted) > 3
        assert all(set(after) < set(before) for before, after in itertools.pairwise(wanted[1:])), "and nothing else"


def test_a_request_that_is_cut_anywhere_leaves_nothing_and_is_sent_again(link, node):
    session, _, objects = link.message(node)
    who = PullObjectRequest(node=Node(node_id=node.id), run_id=link.run)
    whole = bundles.Request.write(who.SerializeToString(), *bundles.write_handed(session, objects.items()))
    start = len(whole) - sum(40 + len(content) for content in objects.values())
    for position in (2, 10, start - 3, *(start + place for place in places_to_cut(objects))):
        node.raw(PUSH, whole[:position], len(whole)).close()
    until(lambda: not link.door._bodies.unfinished)
    assert link.door._bodies.held == 0
    assert not any(link.store.get(name) for name in objects)
    node.hand(objects, session)
    assert {name: link.store.get(name) for name in objects} == objects


def test_what_no_node_needs_any_more_is_taken_and_not_kept(link, node, caplog):
    session, message, objects = link.message(node)
    first, *rest = objects.items()
    link.put(dict([first]), session)
    # The node has all of it from the message before, and confirms at once. The ServerApp is still sending.
    link.store.delete(message.metadata.message_id)
    link.put(dict(rest), session)
    assert not any(link.store.get(name) for name in objects)
    assert session not in link.state._object_push_sessions
    assert "Failed to store" not in caplog.text
    with pytest.raises(inflatable_utils.ObjectPushError):
        link.put(dict(rest), session)  # it expects nothing more


def test_an_answer_that_is_lost_costs_its_bundle_and_no_other(link, node, monkeypatch):
    session, _, objects = link.message(node)
    monkeypatch.setattr(bundles, "PART", 500)
    link.fault.asked.clear()
    link.fault.next_answer(PUSH, lambda _: b"")
    node.hand(objects, session)
    handed = [bundles.names_handed(bundles.Request.read(body).payload) for body in link.fault.asked]
    assert handed[0] == handed[1]
    assert list(itertools.chain.from_iterable(handed[1:])) == list(objects)


class Loop:
    """Flower's loop of a SuperNode with our corrections, its state, and what it answered."""

    def __init__(self, node):
        self._node = node
        self.state, self.kept = internals.node_state(), Kept()
        self.store = self.state.object_store
        self.state.set_node_id(node.id)
        self.replies, self.pushed = [], []
        node.pull = bundle_client._fetching(inflatable_utils.pull_objects, self.kept)

    def take(self, message):
        """Take a message, as far as until its ClientApp would start. Returns whether there is something to answer."""
        self.state.store_run(SimpleNamespace(run_id=message.metadata.run_id, fab_hash="", primary_task_type="x"))
        return node_loop._pull_and_store_message(
            state=self.state, object_store=self.store, node_config={}, receive=lambda: (message, get_object_tree(message)),
            get_run=None, get_fab=None, trusted_entities=None, confirm_message_received=lambda *_: self.kept.confirm(),
            pull_object=lambda run, name: make_pull_object_fn_protobuf(
                self._node.client.PullObject, Node(node_id=self._node.id), run)(name),
        )  # fmt: skip

    def answer(self, push_object=lambda *_: None):
        """Send what there is to answer, and return it."""

        def send(message, tree, _seconds):
            self.replies.append(message)
            return {tree.object_id}, "session"

        node_loop._push_messages(state=self.state, object_store=self.store, send=send, push_object=push_object)
        return self.replies


@pytest.fixture
def loop(link, node, monkeypatch):
    for name in ("_pull_and_store_message", "_push_messages"):
        monkeypatch.setattr(node_loop, name, getattr(node_loop, name))
    loop = Loop(node)
    monkeypatch.setattr(node_loop, "pull_objects", node.pull)
    answer_in_turn()
    return loop


WRONG = {
    "another content": lambda body: body[:-1] + bytes([body[-1] ^ 1]),
    "a wrong length": lambda body: body[:32] + (2**40).to_bytes(8, "big") + body[40:],
    "an object too few": lambda body: (
        body[:32]
        + b"\xff" * 8
        + body[40 + int.from_bytes(body[32:40], "big") :]
        + b"\0" * int.from_bytes(body[32:40], "big")
    ),
    "not asked for": lambda body: bytes(32) + body[32:],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_node_that_gets_what_it_did_not_ask_for_says_so_and_keeps_nothing_of_it(link, node, loop, wrong):
    message, objects = link.sent(node)
    link.fault.next_answer(PULL, wrong)
    assert loop.take(message) == link.run
    [reply] = loop.answer()
    assert reply.error.reason == f"Node {node.id} could not fetch this message."
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert (loop.kept.objects, loop.state.msg_store, len(loop.store)) == ({}, {}, 0)
    assert loop.take(message) == link.run
    assert loop.kept.objects == objects


def test_an_object_that_nobody_has_costs_a_node_its_message_and_no_time(link, node, loop):
    message, objects = link.sent(node)
    link.store.delete(message.object_id)
    assert loop.take(message) == link.run
    [reply] = loop.answer()
    assert reply.has_error()
    again, _ = link.sent(node)
    assert loop.take(again) == link.run
    assert len(loop.store) > len(objects) // 2


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_of_a_request_that_is_wrong_nothing_wrong_is_kept_and_the_right_one_is_taken(link, node, wrong):
    session, _, objects = link.message(node)
    who = PullObjectRequest(node=Node(node_id=node.id), run_id=link.run).SerializeToString()
    head, contents = bundles.write_handed(session, []), b"".join(bundles.write_objects(objects.items()))
    with node.raw(PUSH, bundles.Request.write(who, *head, wrong(contents))) as sender:
        assert sender.recv(100)
    assert all(link.store.get(name) in (b"", content) for name, content in objects.items())
    node.hand(objects, session)
    assert {name: link.store.get(name) for name in objects} == objects


def test_beyond_the_limit_of_memory_both_directions_go_through_files(link, node, monkeypatch):
    monkeypatch.setattr(link.store, "_most", 0)
    before = link.store.held
    message, objects = link.sent(node, size=50_000)
    session, reply, more = link.message(node, size=50_000)
    node.hand(more, session)
    assert link.store.held - before < 64 * 1024, "the arrays are in files"
    assert node.fetch(objects) == objects
    assert {name: link.store.get(name) for name in more} == more
    for one in (message, reply):
        link.store.delete(one.object_id)
    assert not any(name in link.store for name in {**objects, **more})
    assert not any((link.store._folder / name).exists() for name in {**objects, **more})


def test_two_runs_with_the_same_objects_take_none_from_each_other_in_either_direction(link, node):
    values = RecordDict({"arrays": ArrayRecord([np.full(9, 5e5 + n, dtype=np.float32) for n in range(4)])})
    second = link.another_run()
    first_session, first, objects = link.message(node, content=values)
    session, message, others = link.message(node, content=values, run=second)
    assert len(set(objects) & set(others)) > 4
    node.hand(objects, first_session)
    node.hand({name: content for name, content in others.items() if not link.store.get(name)}, session, second)
    link.state.cleanup_run(second)
    assert node.fetch(objects) == objects
    assert message.object_id not in link.store
    link.store.delete(first.object_id)
    assert not any(name in link.store for name in {**objects, **others})


def test_a_node_that_dies_with_half_its_message_fetched_is_answered_for_when_it_is_back(link, node, monkeypatch):
    message, objects = link.sent(node)
    [_] = link.state.get_message_ins(node.id, limit=1)
    monkeypatch.setattr(bundles, "PART", 400)
    names = list(objects)
    assert node.fetch(names[:3]) == {name: objects[name] for name in names[:3]}
    node.client.DeactivateNode(DeactivateNodeRequest(node_id=node.id))  # its next process, before it starts
    assert link.state.activate_node(node.id, 30)
    [answer] = link.state.get_message_res({message.metadata.message_id}, link.run)
    assert answer.has_error()
    assert not any(name in link.store for name in objects), "the model is gone with its message"


def test_a_reply_that_cannot_be_sent_is_replaced_by_an_error(link, node, loop):
    message, _ = link.sent(node)
    assert loop.take(message)
    node_loop._insert_message(Message(RecordDict(), reply_to=message), loop.state, loop.store)

    def refuse(*_):
        raise ObjectPushError("x", 1, "x")

    _, error = loop.answer(refuse)
    assert error.error.reason == f"The ClientApp of node {node.id} gave a reply that cannot be sent."
    assert loop.state.msg_store == {}


def test_a_superlink_whose_memory_and_disk_are_full_says_so_in_the_error_of_the_node(link, node, loop, monkeypatch):
    message, _ = link.sent(node)
    session, _, large = link.message(node, size=50_000)
    assert loop.take(message)
    node_loop._insert_message(Message(RecordDict(), reply_to=message), loop.state, loop.store)
    monkeypatch.setattr(link.store, "_most", 0)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    _, error = loop.answer(lambda *_: node.hand(large, session))
    reason = plain_reason(error.error.reason)
    assert reason.startswith(
        f"The ClientApp of node {node.id} gave a reply that cannot be sent: There is no room for it"
    )
    assert reason.endswith("Raise FL_OBJECT_MEMORY, or free some disk space there.")
    assert not any(link.store.get(name) for name in large), "nothing is left of it"


def test_a_node_that_dies_with_half_its_reply_sent_is_waited_for_until_it_is_back_and_no_longer(link, node):
    message, _ = link.sent(node)
    [taken] = link.state.get_message_ins(node.id, limit=1)
    TaskIdentity._node_id = node.id
    reply = Message(RecordDict({"arrays": ArrayRecord([np.full(9, 1e6 + n) for n in range(4)])}), reply_to=taken)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    session = link.state.start_session(link.run)
    assert link.state.store_message_and_object_tree(reply, get_object_tree(reply), session)[0]
    objects = {name: found.deflate() for name, found in get_all_nested_objects(reply).items()}
    half = dict(list(objects.items())[: len(objects) // 2])
    before = link.store.held
    node.hand(half, session)
    assert link.state.get_message_res({message.metadata.message_id}, link.run), "the ServerApp has its message"
    who = PullObjectRequest(node=Node(node_id=SUPERLINK_NODE_ID), run_id=link.run, object_id=reply.object_id)
    rest = [name for name in objects if name not in half]
    path = f"/v1/runtime/{bundles.PULL_OBJECTS}"

    def wait_for_the_rest():
        body = bundles.Request.write(who.SerializeToString(), bundles.write_wanted(rest))
        url = f"http://{ADDRESS}:{link.served.control[1]}{path}"
        headers = PROTOBUF | {"flwr-task-token": link.fleet.token, PREFER: "wait=20"}
        return httpx.post(url, content=body, headers=headers, trust_env=False, verify=PLAIN, timeout=30)

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait_for_the_rest)
        until(lambda: link.polls.waiting().get(path))
        started = time.monotonic()
        node.client.DeactivateNode(DeactivateNodeRequest(node_id=node.id))  # its next process, before it starts
        answer = waiting.result()
    assert time.monotonic() - started < 5
    assert dict(bundles.Answer.FromString(answer.content).objects) == dict.fromkeys(rest)
    assert link.store.held == before


@pytest.mark.e2e
def test_ten_nodes_at_once_get_one_copy_and_give_ten_replies(link):
    nodes = [OneNode(link) for _ in range(10)]
    values = RecordDict({"arrays": ArrayRecord([np.full(50_000, 7.5 + n, dtype=np.float32) for n in range(4)])})
    before = link.store.held
    sent = [link.sent(node, content=values) for node in nodes]
    one = sum(len(content) for content in sent[0][1].values())
    assert link.store.held - before < 1.2 * one
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda node, what: node.fetch(what[1]), nodes, sent))
        assert found == [objects for _, objects in sent]
        replies = [link.message(node) for node in nodes]
        list(threads.map(lambda node, reply: node.hand(reply[2], reply[0]), nodes, replies))
    assert all(link.store.get(name) == content for _, _, objects in replies for name, content in objects.items())
    for message, _ in sent:
        link.store.delete(message.object_id)
    assert link.store.held - before < 1.2 * one, "one copy, for the next message"
    link.sent(nodes[0], content=RecordDict({"arrays": ArrayRecord([np.full(50_000, 1.5, dtype=np.float32)])}))
    assert link.store.held - before < one / 2, "until other large contents come"


@pytest.mark.e2e
def test_who_sends_slowly_or_takes_nothing_is_dropped_and_costs_nobody_else(link, node, monkeypatch):
    slow = OneNode(link)
    _, large = link.sent(slow, arrays=2, size=2_000_000)
    _, objects = link.sent(node)
    monkeypatch.setattr(bodies, "PATIENCE", 0.4)
    monkeypatch.setattr(bodies, "SLOWEST", 2**40)
    monkeypatch.setattr(door, "_LONGEST", 0.4)
    who = PullObjectRequest(node=Node(node_id=slow.id), run_id=link.run, object_id=list(large)[-1])
    wanted = bundles.Request.write(who.SerializeToString(), bundles.write_wanted(large))
    with slow.raw(PUSH, b"half", 16 * 2**20) as sender, slow.raw(PULL, wanted) as taker:
        assert node.fetch(objects) == objects, "meanwhile"
        assert received(sender) == 0
        until(lambda: not link.door._giving and not link.door._bodies.unfinished)
        assert received(taker) < sum(map(len, large.values()))
    assert link.door._bodies.held == 0


def received(connection):
    """How many bytes come until the other end closes the connection."""
    found = 0
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(2**20):
            found += len(data)
    return found


def test_nothing_of_another_node_is_given_and_a_stopped_run_gives_nothing(link, node):
    other = OneNode(link)
    message, objects = link.sent(node)

    def ask(signer, node, names):
        who = PullObjectRequest(node=Node(node_id=node.id), run_id=link.run, object_id=message.object_id)
        url = f"http://{ADDRESS}:{link.served.fleet[1]}{PULL}"
        body = bundles.Request.write(who.SerializeToString(), bundles.write_wanted(names))
        return httpx.post(url, content=body, headers=signer.key.headers(), trust_env=False, verify=PLAIN)

    assert dict(bundles.Answer.FromString(ask(node, node, objects).content).objects) == objects
    assert dict(bundles.Answer.FromString(ask(other, other, objects).content).objects) == dict.fromkeys(objects)
    assert ask(other, node, objects).status_code == 401, "with the id of another node"
    assert ask(other, other, ["00" * 32] * (bundles.MOST + 1)).status_code == 400
    session, _, reply = link.message(node)
    link.fleet.link.stop(link.run)  # so this is the last test here
    assert ask(node, node, objects).status_code == 403
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        node.fetch(objects)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        node.hand(reply, session)
    assert not any(link.store.get(name) for name in {**objects, **reply}), "all of it is gone"
