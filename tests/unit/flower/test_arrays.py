"""Arrays whose bytes are copied once become the same objects as with Flower's own methods, and the same arrays again."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.app.message import array as flower_array
from flwr.app.message.array import Array
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from oneflower_appliance.flower.warm.arrays import copy_arrays_once

ARRAYS = [
    np.arange(5000, dtype=np.float32).reshape(50, 100),
    np.asfortranarray(np.arange(6000, dtype=np.int64).reshape(60, 100)),
    np.zeros(9000, dtype=np.uint8),  # some of its chunks are the same
    np.array(3.5),
    np.zeros((0, 4), dtype=np.float16),
    np.arange(9).astype(">f8"),
    np.arange(20, dtype=np.complex64)[::2],
    np.array(["2026-11-30"], dtype="datetime64[D]"),
    np.array(["a", "bc"]),
    np.zeros(3, dtype=[("x", "<i4"), ("y", "<f8")]),
    np.arange(3).view(type("Subclass", (np.ndarray,), {})),
]


@pytest.fixture
def ours(monkeypatch):
    """Return a function that replaces Flower's methods, for this test."""
    monkeypatch.setattr(flower_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1000)
    for kind, names in (
        (ArrayChunk, ("object_id", "deflate", "inflate")),
        (Array, ("inflate", "numpy", "from_numpy_ndarray")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, kind.__dict__.get(name) or getattr(kind, name))
    return copy_arrays_once


def objects_of(record):
    with no_object_id_recompute():
        return record.object_id, {name: one.deflate() for name, one in get_all_nested_objects(record).items()}


def test_objects_and_arrays_are_those_of_flower(ours):
    expected = objects_of(ArrayRecord(ARRAYS))
    ours()
    record = ArrayRecord(ARRAYS)
    assert objects_of(record) == expected
    assert objects_of(record) == expected, "with the names that it remembers"
    assert all(get_object_id(content) == name for name, content in expected[1].items())
    name, contents = expected
    found = inflate_object_from_contents(name, dict(contents))
    for array, given in zip(found.to_numpy_ndarrays(), ARRAYS, strict=True):
        assert (array.dtype, array.shape, array.flags.writeable) == (given.dtype, given.shape, True)
        assert (array.flags.owndata, type(array)) == (True, np.ndarray)
        assert np.array_equal(array, given)
    assert objects_of(found) == expected


def test_the_name_of_bytes_that_may_change_is_not_remembered(ours):
    ours()
    content = bytearray(b"content")
    chunk = ArrayChunk(memoryview(content))
    before = chunk.object_id
    content[0] = 0
    assert chunk.object_id != before
    assert chunk.object_id == get_object_id(chunk.deflate())
    chunk.data = memoryview(b"other")
    assert chunk.object_id == get_object_id(chunk.deflate())


def test_what_is_no_chunk_is_refused(ours):
    content = Array(ARRAYS[3]).deflate()
    ours()
    with pytest.raises(ValueError, match="ArrayChunk"):
        ArrayChunk.inflate(content)
    with pytest.raises(ValueError, match="children"):
        ArrayChunk.inflate(ArrayChunk(memoryview(b"x")).deflate(), {"x": ArrayChunk(memoryview(b""))})
    with pytest.raises(ValueError, match="children"):
        Array.inflate(content, {})


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x02\x00" + bytes(200),
                                     b"\x93NUMPY\x01\x00\x0a\x00" + b"x" * 90])  # fmt: skip
@pytest.mark.parametrize("shape", ["(2,)", "(-1, -2)", "(-2,)", "(1,)", "(2, 'x')", "(2.0,)"])
def test_what_is_no_array_is_refused_as_numpy_does(ours, content, shape):
    good = Array(np.arange(2)).data
    contents = [content, good.replace(b"(2,), } ", f"{shape}, }} ".encode().ljust(8))[: len(good)]]

    def refused(data):
        try:
            return Array("int64", (2,), "numpy.ndarray", data).numpy().tolist()
        except Exception as error:  # noqa: BLE001 - of any class, but the same
            return type(error)

    expected = [refused(data) for data in contents]
    ours()
    assert [refused(data) for data in contents] == expected
    with pytest.raises(TypeError, match="numpy conversion"):
        Array("int64", (2,), "other", good).numpy()
