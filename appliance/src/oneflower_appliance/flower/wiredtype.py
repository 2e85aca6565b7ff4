"""Models in half as many bytes: arrays of float32 and float64 travel as bfloat16 or float16 (FL_WIRE_DTYPE).

The process that sends a message casts its arrays, and the process that gets it casts them back, so that apps and
strategies see the types that they sent. What is read tells how it was cast, so the receiver needs no setting.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.app import Array, Message, RecordDict
    from numpy.typing import NDArray

_CAST = "oneflower."  # before the type on the wire, in the place of the format of an array's data
_FLOATS = ("float32", "float64")
NUMPY = "numpy.ndarray"  # the type of an array whose content is a .npy file
_NAN = 0x7FC0  # as bfloat16


def cast_in_serverapp(wire: str) -> None:
    """Make the ServerApp of this process send models as `wire`, and cast back what it gets."""
    grid = internals.grid_class()
    push, pull = grid.push_messages, grid.pull_messages

    @functools.wraps(push)
    def push_messages(self: Any, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        with _Narrowed(sent, wire):
            return push(self, sent)

    @functools.wraps(pull)
    def pull_messages(self: Any, message_ids: Iterable[str]) -> Iterable[Message]:
        return [_widened(message) for message in pull(self, message_ids)]

    grid.push_messages, grid.pull_messages = push_messages, pull_messages  # type: ignore[method-assign]


def cast_in_clientapp(wire: str) -> None:
    """Make the ClientApp of this process send models as `wire`, and cast back what it gets."""
    task = internals.clientapp_task()
    push, pull = task.push_message, task.pull_task_input

    @functools.wraps(push)
    def push_message(client: Any, message: Message, context: Any) -> None:
        with _Narrowed([message], wire):
            push(client, message, context)

    @functools.wraps(pull)
    def pull_task_input(*args: Any, **kwargs: Any) -> Any:
        message, *more = pull(*args, **kwargs)
        return (_widened(message), *more)

    task.push_message, task.pull_task_input = push_message, pull_task_input


class _Narrowed:
    """Messages with cast arrays, while they are being sent. Afterwards they are as the app made them."""

    def __init__(self, messages: list[Message], wire: str) -> None:
        self._wire = wire
        self._before = [(message, message.content) for message in messages if message.has_content()]
        self._cast: dict[int, Any] = {}  # by the id of a record: the same model goes to many nodes

    def __enter__(self) -> None:
        if self._wire in WIRE:
            for message, content in self._before:
                message.content = self._narrow(content)

    def __exit__(self, *_: object) -> None:
        for message, content in self._before:
            message.content = content

    def _narrow(self, content: RecordDict) -> RecordDict:
        from flwr.app import ArrayRecord, RecordDict  # noqa: PLC0415 - slow to import

        found = RecordDict()
        for name, record in content.items():
            if not isinstance(record, ArrayRecord):
                found[name] = record
                continue
            if id(record) not in self._cast:
                cast = ArrayRecord()
                for key, array in record.items():
                    cast[key] = narrow(array, self._wire)
                self._cast[id(record)] = cast
            found[name] = self._cast[id(record)]
        return found


def _widened(message: Message) -> Message:
    from oneflower_appliance.flower.warm.arrayfile import FiledArray  # noqa: PLC0415 - imports Flower

    if not message.has_content():
        return message
    for record in message.content.array_records.values():
        for key, array in record.items():
            if str(array.stype).startswith(_CAST):
                with suppress(ValueError, TypeError):  # its user learns that it cannot be read
                    wide = widen(array)
                    record[key] = array.replaced(wide) if isinstance(array, FiledArray) else wide
    return message


def narrow(array: Array, wire: str) -> Array:
    """Return an array as it travels: cast, or as it is if it has other types or values that `wire` cannot hold."""
    from flwr.app import Array  # noqa: PLC0415 - slow to import

    if array.dtype not in _FLOATS or array.stype != NUMPY:
        return array
    values = array.numpy().ravel()
    with np.errstate(over="ignore"):  # what is too large does not travel like this
        cast = WIRE[wire][0](values)
    if not np.array_equal(np.isfinite(WIRE[wire][1](cast)), np.isfinite(values)):
        return array
    return Array(array.dtype, tuple(array.shape), f"{_CAST}{wire}", cast.tobytes())


def widen(array: Array) -> Array:
    """Return an array as it was before it was cast. Raises `ValueError` if it is not valid."""
    from flwr.app import Array  # noqa: PLC0415 - slow to import

    wire = array.stype.removeprefix(_CAST)
    if wire not in WIRE or array.dtype not in _FLOATS:
        raise ValueError(f"an array travels as {array.stype!r} of {array.dtype!r}")
    values = WIRE[wire][1](np.frombuffer(array.data, dtype=np.uint16)).astype(array.dtype).reshape(array.shape)
    return Array(np.asarray(values))


def _to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return bfloat16: the upper half of float32, rounded to the nearest, to the even one of two."""
    single = np.asarray(values, dtype=np.float32)
    bits = single.view(np.uint32)
    half = (bits >> 16) & 1
    half += 0x7FFF
    half += bits
    half >>= 16
    rounded = half.astype(np.uint16)
    rounded[np.isnan(single)] = _NAN
    return rounded


def _from_bfloat16(cast: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (cast.astype(np.uint32) << 16).view(np.float32)


def _to_float16(values: NDArray[Any]) -> NDArray[np.uint16]:
    return values.astype(np.float16).view(np.uint16)


def _from_float16(cast: NDArray[np.uint16]) -> NDArray[np.float32]:
    return cast.view(np.float16).astype(np.float32)


WIRE: dict[str, tuple[Callable[[NDArray[Any]], NDArray[np.uint16]], Callable[[NDArray[np.uint16]], NDArray[Any]]]] = {
    "bfloat16": (_to_bfloat16, _from_bfloat16),
    "float16": (_to_float16, _from_float16),
}
