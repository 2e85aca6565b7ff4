"""Models that travel as bfloat16 or float16: what is on the wire, and what apps see."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.wiredtype import WIRE, cast_in_clientapp, cast_in_serverapp, narrow, widen

ARRAYS = {
    "single": np.linspace(-3, 3, 1000, dtype=np.float32).reshape(10, 100),
    "double": np.linspace(-3, 3, 7),
    "number": np.array(0.1, dtype=np.float32),
    "steps": np.arange(5),
    "half": np.ones(3, dtype=np.float16),
    "none": np.zeros((0, 4), dtype=np.float32),
}
ERROR = {"bfloat16": 2**-8, "float16": 2**-11}  # of a value: half a unit in the last place


@pytest.fixture
def ends(monkeypatch):
    """Return a function that makes a ServerApp and a ClientApp that send as a type. `wire` has what they sent."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)

    def make(server, client):
        wire = []

        class Grid:
            def push_messages(self, messages):
                wire.extend(message.content for message in messages)
                return [message.metadata.message_id for message in messages]

            def pull_messages(self, message_ids):
                return [sent(wire[-1]) for _ in message_ids]

        task = SimpleNamespace(push_message=lambda _client, message, _context: wire.append(message.content),
                               pull_task_input=lambda _client: (sent(wire[-1]), "context", "run", "fab"))  # fmt: skip
        monkeypatch.setattr(internals, "grid_class", lambda: Grid)
        monkeypatch.setattr(internals, "clientapp_task", lambda: task)
        cast_in_serverapp(server)
        cast_in_clientapp(client)
        return Grid(), task, wire

    return make


def sent(content):
    return Message(content, dst_node_id=1, message_type="train")


def content():
    arrays = ArrayRecord({name: Array(array) for name, array in ARRAYS.items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 3})})


@pytest.mark.parametrize("wire", ERROR)
def test_apps_see_their_own_types_and_half_the_bytes_travel(ends, wire):
    grid, task, on_wire = ends(wire, wire)
    model = content()
    messages = [sent(model), sent(model)]
    grid.push_messages(iter(messages))
    assert [message.content for message in messages] == [model, model], "the app's own are as they were"
    assert on_wire[0]["arrays"] is on_wire[1]["arrays"], "the model is cast once for all nodes"
    assert len(on_wire[0]["arrays"]["single"].data) == 2000
    assert on_wire[0]["arrays"]["steps"] == model["arrays"]["steps"]
    assert on_wire[0]["metrics"] == model["metrics"]
    got, *rest = task.pull_task_input(None)
    assert rest == ["context", "run", "fab"]
    for name, array in got.content["arrays"].items():
        assert (array.dtype, tuple(array.shape)) == (str(ARRAYS[name].dtype), ARRAYS[name].shape)
        np.testing.assert_allclose(array.numpy(), ARRAYS[name], rtol=ERROR[wire], atol=1e-6)
    again = got.content
    task.push_message(None, got, None)
    [back] = grid.pull_messages(["id"])
    assert back.content == again, "what was cast once does not change any more"


class Link:
    """What Flower's functions send to, and fetch from."""

    def PushMessages(self, request):  # noqa: N802 - its name in Flower
        self.messages, self.trees, self.objects = request.messages_list, request.message_object_trees, {}
        names = [tree.object_id for root in self.trees for tree in iterate_object_tree(root)]
        ids = [message.metadata.message_id for message in self.messages]
        return PushAppMessagesResponse(message_ids=ids, session_id="s", objects_to_push=names)

    def PushObject(self, request):  # noqa: N802 - its name in Flower
        self.objects[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def PullMessages(self, _):  # noqa: N802 - its name in Flower
        return PullAppMessagesResponse(messages_list=self.messages, message_object_trees=self.trees)

    def PullObject(self, request):  # noqa: N802 - its name in Flower
        return PullObjectResponse(object_found=True, object_available=True,
                                  object_content=self.objects[request.object_id])  # fmt: skip

    def ConfirmMessageReceived(self, _):  # noqa: N802 - its name in Flower
        """Do nothing."""


def test_flowers_own_functions_send_it_in_both_directions(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    grid_class, task = internals.grid_class(), internals.clientapp_task()
    for owner, names in ((grid_class, ("push_messages", "pull_messages")), (task, ("push_message", "pull_task_input"))):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    cast_in_serverapp("bfloat16")
    cast_in_clientapp("bfloat16")
    grid, link = grid_class(token="t"), Link()
    grid._run, grid._client = SimpleNamespace(run_id=1), link
    model = content()
    ids = grid.push_messages([sent(model)])
    assert list(ids) == [link.trees[0].object_id]
    assert any(found.startswith(b"ArrayChunk  2000\0") for found in link.objects.values()), "1000 values"
    [received] = grid.pull_messages(ids)
    np.testing.assert_allclose(received.content["arrays"]["single"].numpy(), ARRAYS["single"], rtol=2**-8, atol=1e-6)
    task.push_message(link, Message(model, reply_to=received), Context(1, 1, {}, RecordDict(), {}))
    assert link.messages[0].metadata.reply_to_message_id == received.metadata.message_id
    [reply] = grid.pull_messages(["id"])
    assert reply.content == received.content


def test_it_is_off_by_default_and_the_receiver_needs_no_setting(ends):
    grid, task, on_wire = ends("float32", "bfloat16")
    model = content()
    grid.push_messages([sent(model)])
    assert on_wire[-1] == model
    task.push_message(None, sent(model), None)
    assert on_wire[-1] != model
    [back] = grid.pull_messages(["id"])
    assert back.content["arrays"]["single"].dtype == "float32"
    assert back.content["arrays"]["single"].numpy().shape == (10, 100)


def test_bfloat16_is_rounded_to_the_nearest_and_to_even():
    bits = np.array([0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF807FFF, 0x00000001, 0x7F800000, 0x7FFFFFFF],
                    dtype=np.uint32)  # fmt: skip
    cast = WIRE["bfloat16"][0](bits.view(np.float32))
    assert [hex(value) for value in cast] == ["0x3f80", "0x3f80", "0x3f81", "0x3f82", "0xbf80", "0x0", "0x7f80",
                                              "0x7fc0"]  # fmt: skip


def test_what_only_its_app_can_read_travels_as_it_is(ends):
    grid, task, on_wire = ends("bfloat16", "bfloat16")
    record = ArrayRecord({"a": Array("int8", (3,), "theirs", b"abc"), "b": Array("float32", (3,), "theirs", b"abc")})
    grid.push_messages([sent(RecordDict({"arrays": record}))])
    assert on_wire[-1]["arrays"] == record
    got, *_ = task.pull_task_input(None)
    assert got.content["arrays"] == record


@pytest.mark.parametrize(("wire", "value"), [("float16", 70_000.0), ("bfloat16", 3.4e38), ("bfloat16", 1e300)])
def test_what_the_type_cannot_hold_travels_as_it_is(wire, value):
    array = Array(np.array([1.0, value]))
    assert narrow(array, wire) is array
    strange = Array(np.array([np.nan, np.inf, -np.inf, 0.5], dtype=np.float32))
    np.testing.assert_array_equal(widen(narrow(strange, wire)).numpy(), strange.numpy())


@pytest.mark.parametrize(
    "change", [{"stype": "oneflower.float8"}, {"dtype": "int64"}, {"data": b"123"}, {"shape": (7,)}, {"shape": ("a",)}]
)
def test_an_array_that_is_not_valid_ends_nothing(ends, change):
    grid, _, on_wire = ends("bfloat16", "bfloat16")
    array = narrow(Array(np.ones(4, dtype=np.float32)), "bfloat16")
    for name, value in change.items():
        setattr(array, name, value)
    record = ArrayRecord()
    record["w"] = array
    on_wire.append(RecordDict({"arrays": record}))
    [got] = grid.pull_messages(["id"])
    assert got.content["arrays"]["w"].stype == array.stype
    with pytest.raises(TypeError, match="Unsupported serialization type"):  # and the guard leaves the reply out
        got.content["arrays"]["w"].numpy()
