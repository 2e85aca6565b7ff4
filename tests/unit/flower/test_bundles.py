"""Bundles of objects: both sides, before Flower's own handlers and Flower's own state on a disk."""

from __future__ import annotations

import asyncio
import datetime
import errno
import os
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError, inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink import main as stock_superlink
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from flwr.supernode import main as stock_supernode

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import deliveries, internals
from oneflower_appliance.flower.warm import bundle_client, bundles, objectstore
from oneflower_appliance.flower.warm import kept as kept_module
from oneflower_appliance.flower.warm.arrays import Parts, copy_arrays_once
from oneflower_appliance.flower.warm.bundle_server import BundleServer
from oneflower_appliance.flower.warm.headers import BUNDLE
from oneflower_appliance.flower.warm.kept import Kept, check_once
from oneflower_appliance.flower.warm.objectstore import object_store
from oneflower_appliance.flower.warm.pace import Pace
from oneflower_appliance.flower.warm.shared_memory import SharedMemory
from tests.unit.flower_state import objects_in_memory
from tests.unit.served import PROTOBUF

from . import test_linkstate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

MODEL = RecordDict({"arrays": ArrayRecord([np.full(9, number, dtype=np.float32) for number in range(8)])})

TASK = {"api": "runtime", "node": SUPERLINK_NODE_ID}  # who makes a request


class Flower:
    """Flower's application, as far as objects go. It lets in only who has the right token."""

    def __init__(self, fleet):
        self._fleet = fleet
        self.asked = []

    async def __call__(self, scope, receive, send):
        self.asked.append(scope["path"])
        status, content = 404, b""
        api, call = scope["path"].split("/")[2:]
        if call in ("pull-object", "push-object"):
            kind = {"pull-object": PullObjectRequest, "push-object": PushObjectRequest}[call]
            request = kind.FromString((await receive())["body"])
            handlers = {"fleet": fleet_handlers, "runtime": runtime_handlers}[api]
            task = [self._fleet.state.get_task_by_token(self._fleet.token)] if api == "runtime" else []
            try:
                answer = getattr(handlers, call.replace("-", "_"))(request, self._fleet.state, *task)
                status, content = 200, answer.SerializeToString()
            except FlowerError:
                status = 403
            if (b"flwr-task-token", self._fleet.token.encode()) not in scope["headers"]:
                status, content = 401, b""
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})


class Client:
    """Flower's client of one API, before an application in this process. `lose` is how many answers get lost."""

    def __init__(self, fleet, app, api):
        self.fleet, self.app, self.api, self.lose, self.posted, self.most = fleet, app, api, 0, [], ""

    def _unary_unary(self, *, path, rpc_method, request, response_type):
        assert rpc_method.split("/")[2].lower() == path.split("/")[3].replace("-", "")
        status, content = self.post(path, request.SerializeToString(deterministic=True))
        if self.lose and path.endswith("s"):
            self.lose -= 1
            raise httpx.ReadError("lost")
        if status != 200:
            raise httpx.HTTPStatusError("", request=None, response=httpx.Response(status, content=content))
        result = response_type()
        result.ParseFromString(content)
        return result

    def post(self, path, body, token=None):
        self.posted.append(body)
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        headers = [(b"flwr-task-token", (token or self.fleet.token).encode()), (BUNDLE.encode(), self.most.encode())]
        asyncio.run(self.app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send))
        return sent[0]["status"], sent[1]["body"]

    def PullObject(self, request):  # noqa: N802 - its name in Flower
        return self._unary_unary(path=f"/v1/{self.api}/pull-object", rpc_method="//PullObject", request=request,
                                 response_type=PullObjectResponse)  # fmt: skip

    def PushObject(self, request):  # noqa: N802 - its name in Flower
        return self._unary_unary(path=f"/v1/{self.api}/push-object", rpc_method="//PushObject", request=request,
                                 response_type=PushObjectResponse)  # fmt: skip


class Wire:
    """A SuperLink of ours with a message for a node (`flower` is Flower in it), and clients of ours."""

    def __init__(self, fleet):
        self.fleet, self.state, self.flower = fleet, fleet.state, Flower(fleet)
        self.app = BundleServer(self.flower, SimpleNamespace(state=lambda: fleet.state))
        self.node, self.task = self.client("fleet"), self.client("runtime")
        self.pull = bundle_client._fetching(inflatable_utils.pull_objects)
        self.push = bundle_client._sending(inflatable_utils.push_object_contents_from_iterable)
        self.session, self.message, self.model = self.opened(MODEL)

    def client(self, api, app=None):
        kind = type("Ours", (Client,), {})
        kind.PullObject = bundle_client._pull_object(kind.PullObject, api)
        kind.PushObject = bundle_client._push_object(kind.PushObject, api)
        return kind(self.fleet, app or self.app, api)

    def opened(self, content, node=None):
        """Open a session for a message, and return it, the message's name and its objects."""
        message = Message(content, dst_node_id=node or self.fleet.node, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.fleet.run)
        assert self.state.store_message_and_object_tree(message, get_object_tree(message), session)[0]
        objects = {name: found.deflate() for name, found in get_all_nested_objects(message).items()}
        return session, message.object_id, objects

    def _node(self, client):
        return Node(node_id=self.fleet.node if client.api == "fleet" else SUPERLINK_NODE_ID)

    def fetch(self, client, names):
        pull = make_pull_object_fn_protobuf(client.PullObject, self._node(client), self.fleet.run)
        return self.pull(list(names), pull)

    def hand(self, client, objects, session):
        push = make_push_object_fn_protobuf(client.PushObject, self._node(client), self.fleet.run, session)
        self.push(iter(objects.items()), push)

    def request(self, call, *payload, api="fleet", node=None, message=None, token=None):
        """Make a request by hand; return its status and its answer."""
        who = PullObjectRequest(node=Node(node_id=node or self.fleet.node), run_id=self.fleet.run,
                                object_id=message or self.message)  # fmt: skip
        body = bundles.Request.write(who.SerializeToString(), *payload)
        return self.node.post(f"/v1/{api}/{call}", body, token)

    def open_sessions(self):
        """Return how many objects each session still expects."""
        return {name: len(one.pending_object_ids) for name, one in self.state._object_push_sessions.items()}


fleet = test_linkstate.fleet  # a fixture


@pytest.fixture
def wire(tmp_path, monkeypatch, request):
    objects_in_memory(monkeypatch, tmp_path)
    return Wire(request.getfixturevalue("fleet"))


def test_a_model_travels_in_one_request_each_way(wire):
    wire.hand(wire.task, wire.model, wire.session)
    assert wire.flower.asked == ["/v1/runtime/pull-object"], "Flower says whether it is allowed, and no more"
    assert wire.session not in wire.open_sessions()
    assert wire.fetch(wire.node, wire.model) == wire.model
    assert wire.flower.asked[1:] == ["/v1/fleet/pull-object"]
    assert wire.fetch(wire.task, wire.model) == wire.model
    inflated = inflate_object_from_contents(wire.message, dict(wire.model))
    assert inflated.content["arrays"].object_id == MODEL["arrays"].object_id


@pytest.fixture
def memory():
    with SharedMemory.create() as memory:
        yield memory


def test_contents_are_in_shared_memory_between_a_task_and_its_own_machine(wire, monkeypatch):
    wire.hand(wire.task, wire.model, wire.session)
    assert wire.session not in wire.open_sessions()
    assert wire.fetch(wire.task, wire.model) == wire.model
    content = next(content for content in wire.model.values() if len(content) > 20)
    assert not any(content in body for body in wire.task.posted), "they are not in the requests"
    count = len(wire.task.posted)
    wire.task.lose = 1  # an answer, after which Flower's client makes the same request again
    with pytest.raises(httpx.ReadError):
        wire.fetch(wire.task, wire.model)
    again = wire.task.posted[-1]
    assert len(wire.task.posted) == count + 1
    assert wire.task.post("/v1/runtime/pull-shared-objects", again)[0] == 404, "the memory is gone with the request"
    monkeypatch.delattr(os, "memfd_create")  # as on another system
    assert wire.fetch(wire.task, wire.model) == wire.model
    session, _, objects = wire.opened(RecordDict({"arrays": ArrayRecord([np.full(9, 77.0)])}))
    wire.hand(wire.task, objects, session)
    assert wire.fetch(wire.task, objects) == objects
    assert len(wire.task.posted[-1]) > 32


def test_shared_memory_that_is_none_may_still_change_or_is_too_short_is_refused(wire, memory, tmp_path):
    name, content = next((name, content) for name, content in wire.model.items() if len(content) > 20)

    def hand(place, length=None, names=(name,)):
        length = len(content) if length is None else length
        payload = bundles.write_handed_table(wire.session, names, [(0, length)] * len(names))
        status, body = wire.request("push-shared-objects", place, *payload, **TASK)
        return status, status == 200 and PushObjectResponse.FromString(body).stored

    secret = tmp_path / "secret"
    secret.write_bytes(content)
    with secret.open("r+b") as file:
        place = struct.pack(">II", os.getpid(), file.fileno())
        assert hand(place) == (404, False), "a file is not read"
        for ask in (place, place[:-1], struct.pack(">II", os.getpid(), 2**31)):
            status, _ = wire.request("pull-shared-objects", ask, bundles.write_wanted([name]), **TASK)
            assert status in (400, 404), "and not written"
    assert secret.read_bytes() == content
    os.truncate(memory._file, len(content))
    assert hand(memory.place) == (400, False), "it is empty, and not sealed"
    memory.write([content])
    assert hand(memory.place, len(content) + 1) == (400, False)
    assert hand(memory.place, len(content) - 1) == (200, False), "another content"
    assert hand(memory.place, names=[get_object_id(content + b"!")]) == (200, False), "another name"
    assert hand(memory.place, names=[name] * (bundles.MOST + 1)) == (400, False)
    assert wire.open_sessions()[wire.session] == len(wire.model), "nothing was taken"
    assert hand(memory.place) == (200, True)
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(memory._file, b"!", 0)


def test_shared_memory_is_written_once_and_a_second_attempt_gets_the_contents_in_its_answer(wire, memory, monkeypatch):
    wire.hand(wire.task, wire.model, wire.session)
    memory.write([b"what was written before the answer was lost"])
    monkeypatch.setattr(SharedMemory, "create", lambda: SharedMemory(os.dup(memory._file)))
    assert wire.fetch(wire.task, wire.model) == wire.model
    assert wire.flower.asked[-2:] == ["/v1/runtime/pull-object"] * 2


def test_a_large_one_travels_in_parts_and_a_lost_answer_costs_one_of_them(wire, monkeypatch):
    monkeypatch.setattr(bundles, "PART", 300)
    objects = dict(wire.model)
    first = dict(list(objects.items())[:2])
    wire.hand(wire.task, first, wire.session)
    assert wire.open_sessions()[wire.session] == len(objects) - 2
    wire.hand(wire.task, objects, wire.session)  # as after a lost answer: the first two are there already
    assert wire.session not in wire.open_sessions()
    asked = len(wire.flower.asked)
    wire.node.lose = 1
    with pytest.raises(httpx.ReadError):  # upon which Flower's client asks again
        wire.fetch(wire.node, objects)
    assert wire.fetch(wire.node, objects) == objects
    assert len(wire.flower.asked) - asked > 3


class Long(Pace):
    overlaps = True


@pytest.mark.parametrize("lost", [0, 1])
def test_two_bundles_are_on_their_way_at_a_time_as_large_as_the_line_can_carry(wire, monkeypatch, lost):
    monkeypatch.setattr(bundles, "PART", 600)
    pace = Long()
    pace.size = 300
    wire.push = bundle_client._sending(inflatable_utils.push_object_contents_from_iterable, pace)
    wire.pull = bundle_client._fetching(inflatable_utils.pull_objects, pace=pace)
    wire.hand(wire.task, wire.model, wire.session)
    assert wire.session not in wire.open_sessions()
    wire.node.most, wire.node.lose = "300", lost
    if lost:
        with pytest.raises(httpx.ReadError):
            wire.fetch(wire.node, wire.model)
    assert wire.fetch(wire.node, wire.model) == wire.model
    assert len(wire.node.posted) > 5
    for wrong in ("many", "-1", "9" * 99, "²"):
        wire.node.most = wrong
        assert wire.fetch(wire.node, wire.model) == wire.model


def test_what_is_not_there_yet_is_asked_for_again_and_what_never_comes_is_an_error(wire, monkeypatch):
    half = dict(list(wire.model.items())[:9])
    wire.hand(wire.task, half, wire.session)

    def meanwhile(_seconds):
        wire.hand(wire.task, {name: wire.model[name] for name in wire.model if name not in half}, wire.session)

    monkeypatch.setattr(bundle_client, "time", SimpleNamespace(sleep=meanwhile, monotonic=time.monotonic))
    assert wire.fetch(wire.node, wire.model) == wire.model
    wire.state.object_store.delete(wire.message)
    with pytest.raises(ObjectPullError):
        wire.fetch(wire.node, wire.model)


def test_a_model_that_a_node_has_is_not_fetched_again(wire, monkeypatch):
    wire.hand(wire.task, wire.model, wire.session)
    kept = Kept()
    wire.pull = bundle_client._fetching(inflatable_utils.pull_objects, kept)
    assert wire.fetch(wire.node, wire.model) == wire.model
    kept.expire()
    assert kept.objects == {}, "what is not confirmed may be anything"
    wire.fetch(wire.node, wire.model)
    kept.confirm()
    session, _, again = wire.opened(RecordDict({"arrays": MODEL["arrays"], "config": ConfigRecord({"round": 2})}))
    new = {name: content for name, content in again.items() if name not in wire.model}
    assert len(new) < 5
    wire.hand(wire.task, new, session)
    wire.node.posted.clear()
    found = wire.fetch(wire.node, again)
    assert found == again
    [body] = wire.node.posted
    assert bundles.read_wanted(bundles.Request.read(body).payload) == list(new)
    kept.confirm()
    assert kept.objects == again
    found.clear()  # as Flower does
    kept.expire()
    assert kept.objects == again
    monkeypatch.setattr(kept_module, "KEPT_FOR", -1.0)
    kept.expire()
    assert kept.objects == {}


def test_stock_flower_at_the_other_end_gets_and_gives_them_one_by_one(wire):
    node, task = wire.client("fleet", wire.flower), wire.client("runtime", wire.flower)
    wire.hand(task, wire.model, wire.session)
    assert wire.session not in wire.open_sessions()
    assert wire.fetch(node, wire.model) == wire.model
    assert wire.fetch(node, wire.model) == wire.model
    assert wire.flower.asked.count("/v1/fleet/pull-objects") == 1, "it is asked once"
    # and a stock node is served by ours
    stock = Client(wire.fleet, wire.app, "fleet")
    assert wire.fetch(stock, wire.model) == wire.model


@pytest.mark.parametrize(("application", "api"), [(stock_supernode, "runtime"), (stock_superlink, "fleet")])
def test_flowers_own_applications_do_not_know_our_calls(application, api):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application.create_app())) as client:
            return [
                (await client.post(f"http://x/v1/{api}/{call}", headers=PROTOBUF)).status_code
                for call in (bundles.PULL_OBJECTS, bundles.PUSH_OBJECTS)
            ]

    assert asyncio.run(ask()) == [404, 404]


def test_flower_decides_who_is_let_in(wire):
    wire.hand(wire.task, wire.model, wire.session)
    wanted = bundles.write_wanted(wire.model)
    assert wire.request("pull-objects", wanted, token="guessed") == (401, b"")
    assert wire.request("push-objects", *bundles.write_handed(wire.session, []), token="guessed") == (401, b"")
    wire.fleet.link.stop(wire.fleet.run)
    assert wire.request("pull-objects", wanted)[0] == 403, "the run has ended"


def test_a_node_gets_only_objects_of_its_own_messages(wire):
    wire.hand(wire.task, wire.model, wire.session)
    other = wire.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"another key", 30)
    assert wire.state.activate_node(other, 30)
    session, message, secret = wire.opened(RecordDict({"arrays": ArrayRecord([np.full(9, 77.0)])}), other)
    wire.hand(wire.task, secret, session)

    def given(names, **ask):
        status, body = wire.request("pull-objects", bundles.write_wanted(names), **ask)
        assert status == 200
        return dict(bundles.Answer.FromString(body).objects)

    nothing = dict.fromkeys(secret)
    assert given(secret, message=message) == nothing, "somebody else's message"
    assert given(secret) == nothing, "by one's own message"
    assert given(secret, message=next(iter(secret))) == nothing, "by the object itself"
    assert given(secret, node=other, message=message) == secret, "as its owner"
    assert given(wire.model, message=wire.message) == wire.model


def test_only_what_a_session_expects_is_taken_and_only_with_its_hash(wire):
    (name, content), *_ = wire.model.items()

    def taken(session, objects):
        status, body = wire.request("push-objects", *bundles.write_handed(session, objects))
        assert status == 200
        return PushObjectResponse.FromString(body).stored

    strange = b"another"
    assert not taken(wire.session, [(name, content[:-1] + b"!")]), "another content"
    assert not taken(wire.session, [(get_object_id(strange), strange)]), "not expected"
    assert not taken("no-session", [(name, content)])
    assert wire.open_sessions()[wire.session] == len(wire.model), "nothing was taken"
    with pytest.raises(ObjectPushError):
        wire.hand(wire.task, {name: strange}, wire.session)
    assert taken(wire.session, [(name, content)])
    assert wire.state.get_object(wire.fleet.run, name) == content


def test_a_bundle_that_is_cut_off_or_lies_about_its_length_is_refused(wire):
    (name, content), *_ = wire.model.items()
    [header, _] = bundles.write_objects([(name, content)])
    handed = bundles.write_handed(wire.session, [(name, content)])
    whole = bundles.Request.write(b"", *handed)
    start = len(whole) - len(content)  # of the content
    for length in (0, 3, 4, 5, 6, 20, start - 20, start - 1, start, len(whole) - 1):
        with pytest.raises(ValueError, match="is cut off"):
            bundles.read_handed(bundles.Request.read(whole[:length]).payload)
    huge = header[:-8] + (2**63).to_bytes(8, "big")
    for payload in (huge, header[:-1], header + content[:-1], header + content + b"x"):
        assert wire.request("push-objects", *handed[:2], payload)[0] == 400
    assert wire.request("pull-objects", b"x" * 33)[0] == 400
    assert wire.request("pull-objects", b"x" * 32 * (bundles.MOST + 1))[0] == 400
    assert wire.node.post("/v1/fleet/pull-objects", b"\xff\xff\xff\xff")[0] == 400
    assert wire.open_sessions()[wire.session] == len(wire.model)


def test_a_message_whose_objects_do_not_come_is_forgotten_as_flower_does(wire, monkeypatch):
    """A session that expires, the end of a run, and a node that dies with its reply half sent."""
    fleet = wire.fleet
    left = wire.state._object_push_sessions[wire.session].expires_at - datetime.datetime.now(tz=datetime.UTC)
    assert left > datetime.timedelta(minutes=9), "an object may need minutes on its way"
    deliveries.forget_lost_deliveries(lambda: fleet.changes.append(1))
    name = next(iter(wire.model))
    wire.hand(wire.task, {name: wire.model[name]}, wire.session)
    wire.state._object_push_sessions[wire.session].expires_at -= datetime.timedelta(hours=1)
    with pytest.raises(ObjectPushError):
        wire.hand(wire.task, wire.model, wire.session)
    with pytest.raises(ObjectPullError):
        wire.fetch(wire.node, wire.model)
    wire.opened(MODEL)
    _, _, reply = fleet.reply(fleet.content)
    assert wire.state.get_object(fleet.run, reply.object_id) == b""
    fleet.state.deactivate_node(fleet.node)
    fleet.state.activate_node(fleet.node, 30)
    assert fleet.changes
    assert wire.state.get_object(fleet.run, reply.object_id) is None
    assert wire.open_sessions()
    fleet.state.cleanup_run(fleet.run)
    assert (wire.open_sessions(), len(wire.state.object_store)) == ({}, 0)


def test_if_memory_and_disk_are_full_a_message_is_given_up_and_the_next_one_is_not(wire, monkeypatch, caplog):
    store = wire.state.object_store
    monkeypatch.setattr(objectstore, "_SMALL", 1)
    store._most = len(wire.model) + sum(len(content) for content in wire.model.values()) // 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
        with pytest.raises(OneflowerError, match="no room for it on the SuperLink's machine") as refused:
            wire.hand(wire.task, wire.model, wire.session)
    assert str(store._folder) in refused.value.sentence
    [line] = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert "FL_OBJECT_MEMORY" in line
    assert str(store._folder) in line
    assert (wire.open_sessions().get(wire.session), store.held) == (None, 0), "nothing is left of it"
    with pytest.raises(ObjectPullError):
        wire.fetch(wire.node, wire.model)
    with pytest.raises(ObjectPullError, match="no room for it on the SuperLink's machine"):
        wire.fetch(wire.task, wire.model)
    session, _, again = wire.opened(MODEL)
    wire.hand(wire.task, again, session)
    assert wire.fetch(wire.node, again) == again
    assert store.held <= store._most
    assert any(store._folder.iterdir())


def test_a_message_that_its_node_never_fetched_goes_with_its_objects(wire):
    """Its node died, and the ServerApp got an error in place of the answer. The model is still sent to another node."""
    wire.hand(wire.task, wire.model, wire.session)
    other = wire.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"another key", 30)
    assert wire.state.activate_node(other, 30)
    session, message, objects = wire.opened(MODEL, other)
    wire.hand(wire.task, {name: objects[name] for name in objects if name not in wire.model}, session)
    wire.state.delete_messages({wire.message})
    assert wire.message not in wire.state.object_store
    assert {name: wire.state.object_store.get(name) for name in objects} == objects
    wire.state.delete_messages({message})
    assert all(name not in wire.state.object_store for name in objects)


def test_two_runs_with_the_same_model_do_not_take_it_from_each_other(wire):
    fleet, store = wire.fleet, wire.state.object_store
    wire.hand(wire.task, wire.model, wire.session)
    second = wire.state.create_run("us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, "serverapp")
    first, TaskIdentity._run_id, fleet.run = fleet.run, second, second
    session, _, objects = wire.opened(MODEL)
    shared = set(objects) & set(wire.model)
    assert len(shared) > len(objects) - 4
    assert wire.open_sessions()[session] == len(objects) - len(shared), "the model is there already"
    wire.state.cleanup_run(first)  # it is stopped before the second run's message is complete
    assert {name: store.get(name) for name in shared} == {name: objects[name] for name in shared}
    assert all(name not in store for name in set(wire.model) - shared)
    for name in set(objects) - shared:
        assert wire.state.store_object(second, session, name, objects[name])
    assert {name: store.get(name) for name in objects} == objects
    wire.state.cleanup_run(second)
    assert (store.held, wire.open_sessions(), [name for name in objects if name in store]) == (0, {}, [])


def test_contents_beyond_the_limit_are_in_files_that_go_with_them(tmp_path, monkeypatch):
    store = object_store(tmp_path / "objects", most=200_000)
    record = RecordDict({"arrays": ArrayRecord([np.full(100_000, number, dtype=np.uint8) for number in range(4)])})
    objects = {name: found.deflate() for name, found in get_all_nested_objects(record).items()}

    def put(what):
        for name, content in what.items():
            store.put(name, content)

    store.preregister(1, get_object_tree(record))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            put(objects)
    assert store.held <= 200_000
    put(objects)
    put(objects)
    files = list((tmp_path / "objects").iterdir())
    assert len(files) in (2, 3)
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700
    assert {name: store.get(name) for name in objects} == objects
    store.delete(record.object_id)
    assert (store.held, len(store), list((tmp_path / "objects").iterdir())) == (0, 0, [])
    store.preregister(1, get_object_tree(record))
    put(objects)
    store.delete_objects_in_run(1)
    assert (store.held, list((tmp_path / "objects").iterdir())) == (0, [])


def test_a_model_that_the_nodes_have_is_kept_for_the_next_message_of_its_run_and_for_nobody_else(wire):
    store, state = wire.state.object_store, wire.state
    arrays = {name for name, content in wire.model.items() if content.startswith((b"Array ", b"ArrayChunk "))}
    wire.hand(wire.task, wire.model, wire.session)
    assert wire.fetch(wire.node, wire.model) == wire.model
    store.delete(wire.message)  # as Flower does when the node has confirmed it
    assert not any(name in store for name in wire.model)
    other = state.create_run("us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, "serverapp")
    stranger = get_object_tree(Message(MODEL, dst_node_id=wire.fleet.node, message_type="train"))
    assert set(store.preregister(other, stranger)) >= arrays, "another run has to send it"
    for name in list(store.store):
        store.delete(name)
    session, _, objects = wire.opened(MODEL)
    assert arrays & set(objects) == arrays
    assert wire.open_sessions()[session] == len(set(objects) - set(wire.model)) < 5, "its own run has not"
    assert {name: store.get(name) for name in arrays} == {name: wire.model[name] for name in arrays}
    state.cleanup_run(wire.fleet.run)
    assert (store.held, len(store)) == (0, 0)


def test_nothing_is_kept_when_the_serverapp_has_ended(wire):
    store = wire.state.object_store
    wire.hand(wire.task, wire.model, wire.session)
    wire.fetch(wire.node, wire.model)
    store.delete(wire.message)
    assert store.held > 0
    assert wire.state.finish_task(wire.fleet.task, sub_status="completed", details="")
    assert store.held == 0


def test_what_is_kept_goes_when_other_large_contents_come(tmp_path):
    store = object_store(tmp_path / "objects", most=10_000_000)

    def message(value):
        record = RecordDict({"arrays": ArrayRecord([np.full(100_000, value, dtype=np.uint8)])})
        return record.object_id, get_object_tree(record), {
            name: found.deflate() for name, found in get_all_nested_objects(record).items()
        }  # fmt: skip

    name, tree, objects = message(1)
    other, reply, contents = message(2)
    for fetched, missing in ((objects, 0), ({}, len(objects))):
        assert len(store.preregister(1, tree)) == len(objects), "it is not there"
        for one, content in objects.items():
            store.put(one, content)
        store.fetched(fetched)
        store.delete(name)
        assert len(store) == 0
        assert store.held == (sum(map(len, objects.values())) if fetched else 0)
        assert len(store.preregister(1, tree)) == missing, "it is there again, or was never fetched"
        store.delete(name)
        store.preregister(1, reply)
        for one, content in contents.items():
            store.put(one, content)
        assert store.held == sum(map(len, contents.values()))
        store.delete(other)
        assert store.held == 0


def test_a_node_checks_the_hash_of_an_object_once(monkeypatch):
    store_class, kept = type(internals.object_store()), Kept()
    monkeypatch.setattr(store_class, "put", store_class.put)
    check_once(kept)
    hashed = []
    module = sys.modules[store_class.__module__]
    stock = module.get_object_id
    monkeypatch.setattr(module, "get_object_id", lambda content: hashed.append(content) or stock(content))
    objects = {name: found.deflate() for name, found in get_all_nested_objects(MODEL).items()}

    def stored(contents):
        store = internals.object_store()
        store.preregister(1, get_object_tree(MODEL))
        for name, content in contents.items():
            store.put(name, content)
        return store

    kept.fetched(dict(objects))
    stored(objects)
    assert len(hashed) == len(objects), "what came is not confirmed"
    kept.confirm()
    store = stored(objects)
    assert len(hashed) == len(objects)
    assert {name: store.get(name) for name in objects} == objects
    stored({name: bytes(bytearray(content)) for name, content in objects.items()})
    assert len(hashed) == 2 * len(objects), "what is equal may come from a task"
    name, *_ = objects
    with pytest.raises(ValueError, match="does not match"):
        stored({name: objects[name] + b"!"})
    with pytest.raises(module.NoObjectInStoreError):
        internals.object_store().put(name, objects[name])


@pytest.mark.parametrize("stock", [False, True])
def test_the_head_and_the_bytes_of_an_array_are_not_joined_before_they_are_sent(wire, monkeypatch, stock):
    for name in ("object_id", "deflate", "inflate"):
        monkeypatch.setattr(ArrayChunk, name, ArrayChunk.__dict__.get(name) or getattr(ArrayChunk, name))
    monkeypatch.setattr(Array, "inflate", Array.__dict__["inflate"])
    copy_arrays_once()
    handed = []
    monkeypatch.setattr(SharedMemory, "write", _noting(SharedMemory.write, handed))
    large = RecordDict({"arrays": ArrayRecord([np.arange(50_000), np.arange(3)])})
    session, message, expected = wire.opened(large)
    del expected[message]
    client = wire.client("runtime", wire.flower) if stock else wire.task
    push = make_push_object_fn_protobuf(client.PushObject, wire._node(client), wire.fleet.run, session)
    monkeypatch.setattr(inflatable_utils, "push_object_contents_from_iterable", wire.push)
    inflatable_utils.push_objects(get_all_nested_objects(large), push)
    found = {name: wire.state.object_store.get(name) for name in expected}
    assert found == expected
    assert {type(content) for content in found.values()} == {bytes}
    assert {type(content) for content in handed if len(content) > 100_000} == {Parts}


def _noting(write, handed):
    def noting(self, contents):
        contents = list(contents)
        handed.extend(contents)
        return write(self, contents)

    return noting
