"""Has a process of Flower's write its log as JSON, one object for each record and each printed line.

Flower and apps configure their own loggers, and all of them end in Python's `StreamHandler`. Where such a handler
writes to standard output or error, the record becomes an object, and its text only goes to what mirrors the stream:
Flower sends what a ServerApp prints to the user, as text in either format.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from oneflower_appliance.log_lines import JSON, Entry, about, entry, entry_of, pieces
from oneflower_appliance.orders import FORMAT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_FILE = 4  # which of the arguments of `print_exception` it is
_LONGEST_LINE = 32_768  # characters that are held for the rest of their line


class Output(io.TextIOBase):
    """Stands for standard output or error: each line that is printed becomes an object."""

    def __init__(self, raw: IO[str], source: str) -> None:
        super().__init__()
        self.raw = raw
        self._source = source
        self._begun = ""
        self._local = threading.local()
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Take a text. Its complete lines are written."""
        if not getattr(self._local, "quiet", False):
            with self._lock:
                *lines, self._begun = (self._begun + text).split("\n")
                if len(self._begun) > _LONGEST_LINE:
                    lines, self._begun = [*lines, self._begun], ""
                for line in lines:
                    self._line(line)
        return len(text)

    def _line(self, line: str) -> None:
        shown = line.rstrip("\r").rpartition("\r")[2]  # as a terminal shows a bar of progress in the end
        if shown.strip():
            self.put(entry(self._source, shown))

    def put(self, found: Entry) -> None:
        """Write an object, unless it says nothing: Flower logs empty lines between its paragraphs."""
        if not found["message"].strip() and not found["exception"]:
            return
        for piece in pieces(found):
            os.write(self.raw.fileno(), piece)

    def finish(self) -> None:
        """Write what has no end of line."""
        with self._lock:
            line, self._begun = self._begun, ""
            self._line(line)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Drop what this thread writes meanwhile, which only those get who mirror the stream."""
        before, self._local.quiet = getattr(self._local, "quiet", False), True
        try:
            yield
        finally:
            self._local.quiet = before

    def flush(self) -> None:
        """Do nothing: complete lines are written."""

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self.raw.fileno()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    @property
    def buffer(self) -> Any:
        """The stream for bytes, which become lines of text in the agent's log."""
        return self.raw.buffer  # type: ignore[attr-defined]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return str(getattr(self.raw, "encoding", "utf-8"))


def write_json(process: str) -> None:
    """Have this process, a `process` of Flower's, write JSON if that is asked for (FL_LOG_FORMAT)."""
    about(process=process)
    if os.environ.get(FORMAT_VARIABLE) != JSON or is_json():
        return
    raw = (sys.stdout, sys.stderr)
    out, error = (Output(stream, source) for stream, source in zip(raw, ("stdout", "stderr"), strict=True))
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = error  # type: ignore[misc, assignment]
    _convert_records(raw, error)
    _convert_exceptions(error)
    for stream in (out, error):
        atexit.register(stream.finish)


def is_json() -> bool:
    """Whether this process writes JSON."""
    return isinstance(sys.stderr, Output)


def _convert_records(raw: tuple[IO[str], ...], error: Output) -> None:
    stock = logging.StreamHandler.emit

    def emit(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
        stream = handler.stream
        if isinstance(stream, Output):
            stream.put(entry_of(record))
            with stream.quiet():
                stock(handler, record)
        elif stream in raw:  # a handler that was made before
            error.put(entry_of(record))
        else:
            stock(handler, record)

    logging.StreamHandler.emit = emit  # type: ignore[method-assign, assignment]


def _convert_exceptions(error: Output) -> None:
    stock_hook, stock_print = sys.excepthook, traceback.print_exception

    def put(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
        told = "".join(traceback.format_exception(kind, value, trace))
        error.put(entry("python", f"{kind.__name__}: {value}", "ERROR", exception=told))

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        put(kind, value, trace)
        with error.quiet():
            stock_hook(kind, value, trace)

    def hook_of_threads(arguments: threading.ExceptHookArgs, /) -> None:
        if arguments.exc_type is not SystemExit:
            hook(arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback)

    def print_exception(*arguments: Any, **named: Any) -> None:
        value = next((given for given in arguments if isinstance(given, BaseException)), None)
        file = named.get("file") or next(iter(arguments[_FILE:]), None)
        if file not in (None, sys.stderr) or value is None:
            stock_print(*arguments, **named)
            return
        put(type(value), value, value.__traceback__)
        with error.quiet():
            stock_print(*arguments, **named)

    sys.excepthook, threading.excepthook = hook, hook_of_threads
    traceback.print_exception = print_exception
