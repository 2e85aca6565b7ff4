"""A line of a machine's log, as text or as one JSON object (FL_LOG_FORMAT), and how a process hands one to the agent.

An object has `time` (RFC 3339, UTC), `level`, `source` (the logger, or the stream that was printed to) and `message`.
It has `exception` (a whole traceback), `federation`, `role`, `vm`, `node`, `partition`, `process`, `run` and `round`
where they are known.

Flower's processes share one pipe to their agent, so an object crosses it in pieces that the kernel does not mix
(`PIPE_BUF`). A piece begins with the character by which RFC 7464 marks JSON texts; what a program prints past Python
has no such mark, and is a line of text.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON, TEXT = "json", "text"
FIELDS = (
    "time", "level", "source", "message", "exception", "federation", "role", "vm", "node", "partition", "process",
    "run", "round",
)  # fmt: skip
_MACHINE = ("federation", "role", "vm", "node", "partition")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_MARK = "\x1e"
_PIECE = re.compile(rf"{_MARK}(\d+\.\d+) (\d+) (.*);", re.DOTALL)
_LONGEST_PIECE = 4000  # of 4096 bytes that Linux writes to a pipe at once
_LONGEST_TEXT = 100_000  # characters of a message or a traceback
_MOST_UNFINISHED = 64  # objects, of processes that were killed meanwhile
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_TEXT_LINE = re.compile(r"(?:<\d>)?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) (\w+) +([\w.]+): (.*)", re.DOTALL)

# A line as Flower's logger writes it, with or without a time, and one as Python's own logging does.
_LOGGED = re.compile(rf"({'|'.join(LEVELS)})(?: +\d[\d-]+ [\d:,]+)? *:(?: +|([\w.]+):)(.*)", re.DOTALL)

_known: dict[str, str] = {}
_numbers = itertools.count()
Entry = dict[str, str]


def about(**fields: str) -> None:
    """Note what this process's lines are about from now on. An empty text ends that."""
    for name, value in fields.items():
        if name not in FIELDS:
            raise ValueError(f"{name} is not a field of a log line")
        _known[name] = value


def moment(seconds: float | None = None) -> str:
    """Return a time, in seconds of the epoch, as RFC 3339 in UTC."""
    when = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry(
    source: str, message: str, level: str = "INFO", *, exception: str = "", seconds: float | None = None
) -> Entry:
    """Return a line as an entry, with what this process is about."""
    said = {"time": moment(seconds), "level": level, "source": source}
    return said | {"message": tidy(message), "exception": tidy(exception)} | _known


def tidy(text: str) -> str:
    """Return a text without colours and private keys, and not too long."""
    text = _PRIVATE_KEY.sub("[a private key]", _COLOUR.sub("", text)).rstrip()
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... ({len(text)} characters)"


def entry_of(record: logging.LogRecord) -> Entry:
    """Return a record of Python's logging as an entry."""
    exception = logging.Formatter().formatException(record.exc_info) if record.exc_info else record.exc_text or ""
    return entry(
        record.name, record.getMessage(), record.levelname, exception=exception, seconds=record.created
    )  # fmt: skip


def line_of(found: Entry) -> str:
    """Return an entry as one line of JSON, without the fields that are empty."""
    return json.dumps({name: found[name] for name in FIELDS if found.get(name)} | {"message": found.get("message", "")})


def parse(line: str) -> Entry | None:
    """Return the entry of a line that one of a machine's processes wrote, in either format. None for other text."""
    if (begin := line.find("{")) in (0, 3) and (begin == 0 or re.fullmatch(r"<\d>", line[:3])):
        return _checked(line[begin:])
    if found := _TEXT_LINE.fullmatch(line):
        return dict(zip(("time", "level", "source", "message"), found.groups(), strict=True))
    return None


def _checked(text: str) -> Entry | None:
    """Return an entry of JSON. Apps can write to the pipe too: nothing else than these fields is kept, as text."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("message"), str) or "level" not in said:
        return None
    found = {name: str(said[name]) for name in FIELDS if isinstance(said.get(name), str | int)}
    return found | {"level": found["level"] if found.get("level") in LEVELS else "INFO"}


def text_of(found: Entry) -> str:
    """Return an entry as text for people: of more than one line if it has a traceback."""
    head = f"{found.get('time', '')} {found.get('level', ''):7} {found.get('source', '')}: {found['message']}"
    return f"{head}\n{found['exception']}" if found.get("exception") else head


class TextLines(logging.Formatter):
    """Formats records as text, with the time as in JSON."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, _format: str | None = None) -> str:  # noqa: N802 - its name in Python
        """Return the time of a record."""
        return moment(record.created)


class JsonLines(logging.Formatter):
    """Formats records as one JSON object each. A record may carry the `entry` of another process."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        other: Entry | None = getattr(record, "entry", None)
        return line_of(entry_of(record) if other is None else other | {name: _known.get(name, "") for name in _MACHINE})


def pieces(found: Entry) -> Iterator[bytes]:
    """Yield an entry as pieces for the pipe, each to be written at once."""
    text, number = line_of(found), f"{os.getpid()}.{next(_numbers)}"
    parts = [text[start : start + _LONGEST_PIECE] for start in range(0, len(text), _LONGEST_PIECE)]
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        yield f"{_MARK}{number} {left} {part};\n".encode("ascii")


class Joiner:
    """Puts pieces from the pipe together."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}

    def take(self, line: str, source: str) -> Entry | None:
        """Return the entry that a line from the pipe completes, None if there is more to come.

        A line without the mark is an entry of `source` by itself, with the level and the logger that it begins with.
        """
        found = _PIECE.fullmatch(line)
        if found is None:
            return _plain(line, source) | {"process": ""}
        number, left, part = found.groups()
        text = self._begun.pop(number, "") + part
        if int(left) and len(text) < 10 * _LONGEST_TEXT:
            self._begun[number] = text
            while len(self._begun) > _MOST_UNFINISHED:
                del self._begun[next(iter(self._begun))]
            return None
        return _checked(text) or entry(source, text) | {"process": ""}


def _plain(line: str, source: str) -> Entry:
    if found := _LOGGED.fullmatch(_COLOUR.sub("", line).rstrip()):
        level, logger, message = found.groups()
        return entry(logger or source, message, level)
    return entry(source, line)
