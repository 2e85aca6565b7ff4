"""Replies in a file of the ServerApp, not in its memory, until their arrays are used.

What a strategy gets is what it always gets: messages with Flower's arrays. The weighted average of Flower's FedAvg,
which most strategies begin with, is computed array by array and not reply by reply. Each value of it goes through the
same operations in the same order, so the result is the same to the last digit.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from flwr.app import Array, ArrayRecord

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.arrayfile import ArrayFile, FiledArray, Held, Piece, filed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flwr.app import RecordDict

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
_CHUNK = b"ArrayChunk "  # how the content of such an object begins


def keep_replies_in_files(folder: Path) -> Callable[[], dict[str, bytes]]:
    """Keep the replies that this process fetches, and their averages, in files in `folder`.

    Returns what makes a place for the objects of a message.
    """
    grid = internals.grid()
    grid.inflate_object_from_contents = _inflating(grid.inflate_object_from_contents)
    for module in (internals.fedavg(), internals.multikrum()):
        module.aggregate_arrayrecords = _averaging(module.aggregate_arrayrecords, folder)
    return lambda: Contents(ArrayFile(folder))


class Contents(dict[str, Any]):
    """The objects of a message, by name. The contents of large ones are in a file."""

    def __init__(self, file: ArrayFile) -> None:
        super().__init__()
        self.file = file

    def __ior__(self, more: Mapping[str, bytes]) -> Self:  # type: ignore[override, misc]
        for name, content in more.items():
            piece = self.file.add(content) if content.startswith(_CHUNK) else None
            self[name] = piece or content
        return self

    def __getitem__(self, name: str) -> bytes:
        found: bytes | Piece = super().__getitem__(name)
        return found.read() if isinstance(found, Piece) else found

    def arrays(self) -> dict[str, Any]:
        """Return the arrays, and the records of arrays, that are in the file. Their objects are no longer needed."""
        found: dict[str, Any] = {}
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
        head = (found.read(0, min(found.length, 64)) if isinstance(found, Piece) else self[name]).index(b"\0") + 1
        return found.after(head) if isinstance(found, Piece) else Held(self[name][head:])


def _inflating(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def inflate_object_from_contents(object_id: str, object_contents: dict[str, bytes], **options: Any) -> Any:
        if isinstance(object_contents, Contents):
            with contextlib.suppress(*_UNREADABLE):  # Flower's own function says what is wrong with it
                options["objects"] = object_contents.arrays()
        return stock(object_id, object_contents, **options)

    return inflate_object_from_contents


def _averaging(stock: Callable[..., ArrayRecord], folder: Path) -> Callable[..., ArrayRecord]:
    @functools.wraps(stock)
    def aggregate_arrayrecords(records: Sequence[RecordDict], weighting_metric_name: str) -> ArrayRecord:
        models = [list(record.array_records.values()) for record in records]
        if any(len(model) != 1 or set(model[0]) != set(models[0][0]) for model in models):
            return stock(records, weighting_metric_name)
        weights = [next(iter(record.metric_records.values()))[weighting_metric_name] for record in records]
        total = sum(weights)  # type: ignore[arg-type]  # Flower has checked that they are numbers
        factors = [weight / total for weight in weights]  # type: ignore[operator]
        file, averages = ArrayFile(folder), ArrayRecord()
        for name in models[0][0]:
            average: Any = None
            for [model], factor in zip(models, factors, strict=True):
                share = model[name].numpy() * factor
                if average is None:
                    average = share
                else:
                    average += share
            averages[name] = filed(Array(np.asarray(average)), file)
        return averages

    return aggregate_arrayrecords
