"""Replies in files: they are what Flower's own functions make of the same objects, and so are their averages."""

from __future__ import annotations

import copy
import errno
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import arrayfile, replies
from oneflower_appliance.flower.warm.arrayfile import ArrayFile, FiledArray
from oneflower_appliance.flower.warm.contents import Contents, inflate_in_place
from oneflower_appliance.flower.warm.shared_memory import SharedMemory

MODEL = {
    "a": np.arange(40_000, dtype=np.float32).reshape(200, 200),
    "b": np.asfortranarray(np.arange(60_000, dtype=np.float64).reshape(200, 300)),
    "small": np.arange(3, dtype=np.int64),
    "number": np.array(2.5, dtype=np.float32),
}


@pytest.fixture
def inflate(tmp_path, monkeypatch):
    """Return Flower's function for objects that a ServerApp of ours has fetched. Chunks have 100 KB."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    monkeypatch.setattr(internals.array_module(), "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 100_000)
    monkeypatch.setattr(arrayfile, "IN_MEMORY", 0)
    modules = {"grid": SimpleNamespace(inflate_object_from_contents=inflate_object_from_contents),
               "fedavg": SimpleNamespace(aggregate_arrayrecords=aggregate_arrayrecords),
               "multikrum": SimpleNamespace(aggregate_arrayrecords=aggregate_arrayrecords)}  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setattr(internals, name, lambda module=module: module)
    place = replies.keep_replies_in_files(tmp_path)

    def fetched(message, change=lambda _: None):
        contents = place()
        objects = {name: found.deflate() for name, found in get_all_nested_objects(message).items()}
        change(objects)
        contents |= objects
        return modules["grid"].inflate_object_from_contents(message.object_id, contents)

    fetched.average = modules["fedavg"].aggregate_arrayrecords
    return fetched


def reply(weight=1, **more):
    arrays = ArrayRecord({name: Array(np.asarray(array * weight)) for name, array in (MODEL | more).items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": weight, "loss": 0.5})})
    return Message(content, dst_node_id=1, message_type="train")


def descriptors():
    return {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def test_an_app_gets_the_same_arrays_and_sends_the_same_objects(inflate, tmp_path):
    sent = reply()
    got = inflate(sent)
    arrays = got.content["arrays"]
    assert [type(array) for array in arrays.values()] == [FiledArray, FiledArray, Array, Array]
    assert arrays == sent.content["arrays"]
    assert sent.content["arrays"]["a"] == arrays["a"]
    assert arrays["b"] != arrays["a"]
    for name, array in MODEL.items():
        np.testing.assert_array_equal(arrays[name].numpy(), array, strict=True)
    assert arrays.count_bytes() == sent.content["arrays"].count_bytes()
    assert got.content["metrics"] == sent.content["metrics"]
    assert get_object_tree(got) == get_object_tree(sent)
    again = {name: found.deflate() for name, found in get_all_nested_objects(got).items()}
    assert again == {name: found.deflate() for name, found in get_all_nested_objects(sent).items()}
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_an_app_may_change_copy_and_keep_them(inflate):
    before = descriptors()
    arrays = inflate(reply()).content["arrays"]
    assert descriptors() - before, "they are in a file"
    plain = copy.deepcopy(arrays["a"])
    assert type(plain) is Array
    assert plain == arrays["a"]
    assert ArrayRecord(dict(arrays)) == arrays
    old = arrays["a"].object_id
    arrays["a"].data = plain.data[:-4] + b"\0\0\0\1"
    assert arrays["a"] != plain
    assert arrays["a"].object_id == Array(arrays["a"].dtype, arrays["a"].shape, arrays["a"].stype,
                                          arrays["a"].data).object_id != old  # fmt: skip
    arrays = None
    gc.collect()
    assert descriptors() <= before, "the file is gone with the last array"


def test_the_average_is_flowers_to_the_last_digit(inflate):
    sent = [reply(weight, c=np.random.default_rng(weight).standard_normal(50_000)) for weight in (3, 7, 11)]
    records = [inflate(message).content for message in sent]
    flowers = aggregate_arrayrecords([message.content for message in sent], "num-examples")
    ours = inflate.average(records, "num-examples")
    assert list(ours) == list(flowers)
    assert ours == flowers
    assert {name: array.dtype for name, array in ours.items()} == {name: a.dtype for name, a in flowers.items()}
    assert type(ours["a"]) is FiledArray
    two = RecordDict({**records[0], "more": records[1]["arrays"]})
    odd = RecordDict({"arrays": ArrayRecord({"z": Array(np.ones(3))}), "metrics": records[0]["metrics"]})
    for strange in ([two, records[1]], [records[0], odd]):
        assert inflate.average(strange, "num-examples") == aggregate_arrayrecords(strange, "num-examples")


def test_without_room_on_the_disk_they_stay_in_memory(inflate, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    sent = reply()
    arrays = inflate(sent).content["arrays"]
    assert {type(array) for array in arrays.values()} == {Array}
    assert arrays == sent.content["arrays"]


def test_a_reply_that_is_not_valid_is_refused_as_flower_does(inflate):
    def break_arrays(objects):
        for name, content in objects.items():
            if content.startswith(b"Array "):
                objects[name] = content.replace(b'"arraychunk_ids"', b'"arraychunk_xyz"')

    with pytest.raises(KeyError, match="arraychunk_ids"):
        inflate(reply(), break_arrays)


def test_a_small_model_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(arrayfile, "IN_MEMORY", 100_000)
    file = ArrayFile(tmp_path)
    assert file.add(bytes(70_000)) is None
    assert file.number == -1
    assert file.add(bytes(70_000)).read(69_999) == b"\0"
    assert file.add(bytes(10)) is None


@pytest.fixture
def shared(monkeypatch, inflate):
    """Return Flower's function for objects that a ClientApp of ours has fetched, in shared memory."""
    module = SimpleNamespace(inflate_object_from_contents=inflate_object_from_contents)
    inflate_in_place(module)

    def fetched(message, file=None):
        objects = {name: found.deflate() for name, found in get_all_nested_objects(message).items()}
        contents = Contents(file)
        with SharedMemory.create() as memory:
            contents |= dict(zip(objects, memory.pieces(memory.write(objects.values())), strict=True))
        return module.inflate_object_from_contents(message.object_id, contents)

    return fetched


@pytest.mark.parametrize("chunk", [16 * 4096, 100_000])  # whole pages, as in Flower, and not
def test_an_array_is_in_the_memory_in_which_it_came_and_may_be_changed(shared, monkeypatch, chunk):
    monkeypatch.setattr(internals.array_module(), "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", chunk)
    before = descriptors()
    got = shared(reply(large=np.arange(300_000, dtype=np.int64)))
    arrays = got.content["arrays"]
    assert [type(array) for array in arrays.values()] == [FiledArray, FiledArray, Array, Array, FiledArray]
    values = arrays.to_numpy_ndarrays()
    for found, expected in zip(values, [*MODEL.values(), np.arange(300_000)], strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)
        assert found.flags.writeable
        assert found.flags.aligned
        assert found.flags.f_contiguous == expected.flags.f_contiguous
    values[4] += 1
    values[4][7] = -1
    assert arrays["large"].numpy()[:9].tolist() == list(range(9)), "the message is as it came"
    assert arrays["large"].numpy()[299_999] == 299_999
    maps = Path("/proc/self/maps").read_text()
    mapped = maps.count("oneflower-objects")
    assert mapped > 30 if chunk % 4096 == 0 else 0 < mapped <= len(values), "without a copy where pages allow it"
    del arrays, got, found
    gc.collect()
    assert descriptors() <= before
    assert values[4][7] == -1, "it outlives its message"


def test_an_array_that_is_not_valid_is_refused_as_flower_does(shared):
    good = Array(np.arange(50_000))
    for content in (good.data[:-8], b"\x93NUMPY\x07\x00" + good.data[8:], bytes(100_000)):
        sent = RecordDict({"arrays": ArrayRecord({"a": Array("int64", (50_000,), "numpy.ndarray", content)})})
        got = shared(Message(sent, dst_node_id=1, message_type="train")).content["arrays"]["a"]
        assert type(got) is FiledArray
        with pytest.raises(ValueError, match=r".") as ours:
            got.numpy()
        with pytest.raises(ValueError, match=r".") as flowers:
            sent["arrays"]["a"].numpy()
        assert str(ours.value) == str(flowers.value)


@pytest.mark.parametrize("room", [True, False])
def test_a_reply_goes_from_shared_memory_into_the_file(shared, tmp_path, monkeypatch, room):
    if not room:
        monkeypatch.setattr(os, "sendfile", lambda *_: 0)
    sent = reply()
    arrays = shared(sent, ArrayFile(tmp_path)).content["arrays"]
    assert arrays == sent.content["arrays"]
    assert type(arrays["a"]) is (FiledArray if room else Array)
    gc.collect()
    assert not any("oneflower-objects" in name for name in descriptors()), "the shared memory is gone"
    for name, array in MODEL.items():
        np.testing.assert_array_equal(arrays[name].numpy(), array, strict=True)
