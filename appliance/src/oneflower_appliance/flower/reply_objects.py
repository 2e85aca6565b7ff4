"""The objects of messages, array by array, so that not all arrays of a large model are in memory twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.wiredtype import NUMPY, narrow, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    from numpy.typing import NDArray

_CAST = "oneflower."


class Records:
    """The records of the message `top`, whose objects are in `contents`. If it is damaged, anything may be raised."""

    def __init__(self, top: str, contents: MutableMapping[str, bytes]) -> None:
        from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict  # noqa: PLC0415 - slow to import

        self._contents = contents
        self._objects = internals.inflatable_objects()
        self.arrays: dict[str, dict[str, str]] = {}  # for each record of arrays, the object of each name
        self.metrics: dict[str, Any] = {}
        self.configs: dict[str, Any] = {}
        [content] = self._children(top)
        for name, record in self._body(content, RecordDict).items():
            kind = self._objects.get_object_type_from_object_content(contents[record])
            if kind == ArrayRecord.__qualname__:
                self.arrays[name] = self._body(record, ArrayRecord)
            elif kind == MetricRecord.__qualname__:
                self.metrics[name] = self._inflate(record)
            elif kind == ConfigRecord.__qualname__:
                self.configs[name] = self._inflate(record)
            else:
                raise ValueError("a record of another kind")
        arrays = [array for record in self.arrays.values() for array in record.values()]
        self._uses = Counter(chunk for array in arrays for chunk in self._children(array))

    def array(self, record: str, name: str) -> tuple[NDArray[Any], str]:
        """Return an array, and as what it travels if it was cast (FL_WIRE_DTYPE)."""
        array = self._inflate(self.arrays[record][name])
        wire = array.stype.removeprefix(_CAST) if array.stype != NUMPY else ""
        values = (widen(array) if wire else array).numpy()
        if str(values.dtype) != array.dtype or values.shape != tuple(array.shape):
            raise ValueError("an array is not what it says")
        return values, wire

    def forget(self, record: str, name: str) -> None:
        """Drop the content of an array, as far as no other array has the same."""
        for chunk in self._children(self.arrays[record][name]):
            self._uses[chunk] -= 1
            if not self._uses[chunk]:
                self._contents.pop(chunk, None)

    def _children(self, name: str) -> list[str]:
        found: list[str] = self._objects.get_object_children_ids_from_object_content(self._contents[name])
        return found

    def _body(self, name: str, kind: type) -> dict[str, str]:
        return dict(json.loads(self._objects.get_object_body(self._contents[name], kind)))

    def _inflate(self, name: str) -> Any:
        return internals.inflatables().inflate_object_from_contents(name, self._contents, keep_object_contents=True)


class Reply:
    """A reply that is written into a SuperNode. Use it in a `with internals...no_object_id_recompute()`."""

    def __init__(self) -> None:
        from flwr.app import RecordDict  # noqa: PLC0415 - slow to import

        self.content = RecordDict()
        self._objects: dict[str, bytes] = {}

    def add_arrays(self, name: str, arrays: Iterable[tuple[str, NDArray[Any], str]]) -> None:
        """Add a record of arrays: for each its name, its values, and as what it travels."""
        from flwr.app import Array, ArrayRecord  # noqa: PLC0415 - slow to import

        record = ArrayRecord()
        for key, values, wire in arrays:
            array = Array(values)
            record[key] = self._deflated(narrow(array, wire) if wire else array)
        self.content[name] = record

    def _deflated(self, array: Any) -> Any:
        """Keep the objects of an array, and no second copy of its values."""
        nested = internals.inflatable_objects().get_all_nested_objects(array)
        self._objects |= {name: one.deflate() for name, one in nested.items()}
        for _, chunk in array.slice_array():
            chunk.data = memoryview(b"")
        vars(array)["data"] = b""  # without forgetting its hash
        return array

    def insert(self, make: Callable[[Any], Any], state: Any, store: Any) -> None:
        """Store the reply that `make` makes of the content."""
        from flwr.app import RecordDict  # noqa: PLC0415 - slow to import

        objects = internals.inflatable_objects()
        reply = make(self.content)
        vars(reply.metadata)["_message_id"] = reply.object_id
        store.preregister(reply.metadata.run_id, objects.get_object_tree(reply))
        for name, one in objects.get_all_nested_objects(reply).items():
            store.put(name, self._objects.pop(name, None) or one.deflate())
        if reply.has_content():
            reply.content = RecordDict()  # its objects are in the store
        state.store_message(reply)
