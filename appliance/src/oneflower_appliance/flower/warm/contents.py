"""The objects of one message, as they come: large ones stay in a file or in shared memory, and become arrays there.

A strategy or an app gets what it always gets: messages with Flower's arrays.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, Self

from flwr.app import Array, ArrayRecord

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.arrayfile import ArrayFile, FiledArray
from oneflower_appliance.flower.warm.pieces import LONGEST_HEAD, Held, Piece, head, is_chunk

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)


class Contents(dict[str, Any]):
    """The objects of a message, by name. The contents of large ones are in `file`, or else where they came."""

    def __init__(self, file: ArrayFile | None = None) -> None:
        super().__init__()
        self.file = file

    def __ior__(self, more: Mapping[str, bytes | Piece]) -> Self:  # type: ignore[override, misc]
        for name, content in more.items():
            if self.file is None:
                self[name] = content
            elif isinstance(content, Piece):
                self[name] = self.file.copy(content)
            else:
                self[name] = (self.file.add(content) if is_chunk(content) else None) or content
        return self

    def __getitem__(self, name: str) -> bytes:
        found: bytes | Piece = super().__getitem__(name)
        return found.read() if isinstance(found, Piece) else found

    def arrays(self) -> dict[str, Any]:
        """Return the arrays, and the records of arrays, that are in files. Their objects are no longer needed."""
        found: dict[str, Any] = {}
        if not any(isinstance(content, Piece) for content in self.values()):
            return found
        objects = internals.inflatable_objects()
        kinds = {name: objects.get_object_type_from_object_content(content)
                 for name, content in self.items() if isinstance(content, bytes)}  # fmt: skip
        for name, kind in kinds.items():
            if kind == Array.__qualname__ and (array := self._array(name, objects)):
                found[name] = array
        inflate = internals.inflatables().inflate_object_from_contents
        for name, kind in kinds.items():
            if kind == ArrayRecord.__qualname__ and found:
                record = ArrayRecord()
                for key, below in json.loads(objects.get_object_body(self[name], ArrayRecord)).items():
                    record[key] = inflate(below, self, keep_object_contents=True, objects=found)
                found[name] = record
        return found

    def _array(self, name: str, objects: Any) -> FiledArray | None:
        content = self[name]
        children = objects.get_object_children_ids_from_object_content(content)
        said = json.loads(objects.get_object_body(content, Array))
        chunks = [children[number] for number in said["arraychunk_ids"]]
        if set(chunks) != set(children) or not any(isinstance(self.get(chunk), Piece) for chunk in chunks):
            return None
        pieces = [self._body(chunk) for chunk in chunks]
        return FiledArray(said["dtype"], tuple(said["shape"]), said["stype"], pieces)

    def _body(self, name: str) -> Any:
        """Return the content of a chunk without its head."""
        found = self.get(name)
        if not isinstance(found, Piece):
            found = Held(self[name])
        return found.part(head(found.read(0, min(found.length, LONGEST_HEAD))), found.length)


def inflate_in_place(module: Any) -> None:
    """Have Flower's function in this module leave large arrays in the files in which they came."""
    stock = module.inflate_object_from_contents

    @functools.wraps(stock)
    def inflate_object_from_contents(object_id: str, object_contents: dict[str, bytes], **options: Any) -> Any:
        if isinstance(object_contents, Contents) and options.get("objects") is None:
            with contextlib.suppress(*_UNREADABLE):  # Flower's own function says what is wrong with it
                options["objects"] = object_contents.arrays()
        return stock(object_id, object_contents, **options)

    module.inflate_object_from_contents = inflate_object_from_contents
