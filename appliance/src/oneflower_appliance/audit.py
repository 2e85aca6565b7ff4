"""The audit log: who did what with which app, and how it ended. JSON lines, each with the SHA-256 of the line before.

The operator's side keeps one, and each SuperLink one. A log is a folder: `audit.jsonl`, what was written before it
(`audit-N.jsonl`, N is the number of its first entry), and `head`: number and hash of the last entry. Several processes
may write: each holds the folder's lock from reading the last entry until its own is on the disk.

What it notices: an entry that was changed, left out, inserted or moved; entries cut off at the end, as long as `head`
or somebody else remembers them. A user who may write these files can still write a whole new chain.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import PRIVATE, no_room, private_directory
from oneflower_appliance.log_lines import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FOLDER = "audit"
BEGUN, DONE, FAILED, REFUSED, INTERRUPTED = "begun", "done", "failed", "refused", "interrupted"
NOTHING = "0" * 64  # the hash before the first entry
_CURRENT, _HEAD, _LOCK = "audit.jsonl", "head", "lock"
_OLDER = re.compile(r"audit-(\d+)\.jsonl")
_LARGEST = 1 << 20  # bytes of a file
_KEPT = 8  # files besides the current one
_LONGEST = 500  # characters of a value


@dataclass(frozen=True)
class Head:
    """Number and hash of an entry, usually the last one. As text: `17:abc...`."""

    number: int = 0
    hash: str = NOTHING

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read what `str` wrote. Raises `ValueError`."""
        number, _, digest = text.strip().partition(":")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"{text!r} is not the number and hash of an entry")
        return cls(int(number), digest)


def hash_of(line: str) -> str:
    """Return the hash of an entry's line, without its end of line."""
    return hashlib.sha256(line.encode()).hexdigest()


class AuditLog:
    """The audit log in the folder `path`. Its methods raise `OneflowerError` when it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, action: str, outcome: str, **details: str) -> Head:
        """Append an entry, and return its number and hash once it is on the disk."""
        with self._locked():
            before = self._last()
            said = {name: value[:_LONGEST] for name, value in details.items() if value}
            entry = {"n": before.number + 1, "time": moment(), "action": action, "outcome": outcome, **said}
            line = json.dumps({**entry, "before": before.hash})
            self._append(line + "\n", before.number + 1)
            head = Head(before.number + 1, hash_of(line))
            self._keep(head)
            return head

    def read(self) -> Content:
        """Return what is kept."""
        if not self._path.is_dir():
            return Content()
        with self._locked():
            files = self._files()
            text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
            return Content(tuple(text.rstrip("\n").split("\n") if text else ()), self._head(), len(files) > _KEPT)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            private_directory(self._path)
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise OneflowerError(
                f"The audit log in {self._path} cannot be written or read: {reason}.",
                no_room(self._path.parent) or "Free some disk space, or make the folder writable for this user.",
                ExitCode.ENVIRONMENT,
            ) from error

    def _files(self) -> list[Path]:
        older = sorted((int(found[1]), path) for path in self._path.iterdir() if (found := _OLDER.fullmatch(path.name)))
        current = self._path / _CURRENT
        return [path for _, path in older] + ([current] if current.exists() else [])

    def _last(self) -> Head:
        """Return what the next entry follows. After a change that is what `head` says, so that the change shows."""
        last = Head()
        for file in reversed(self._files()):
            if lines := file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                last = Head(_number(lines[-1]), hash_of(lines[-1]))
                break
        head = self._head()
        return head if head.number >= last.number else last

    def _append(self, line: str, number: int) -> None:
        path = self._path / _CURRENT
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            size = os.fstat(descriptor).st_size
            whole = size - len(os.pread(descriptor, size, 0).rpartition(b"\n")[2])
            os.ftruncate(descriptor, whole)  # of an entry that a power cut left unfinished, nobody was told
            if whole + len(line) > _LARGEST and whole:
                os.close(descriptor)
                self._rotate(number)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_EXCL, PRIVATE)
                whole = 0
            try:
                _write_all(descriptor, line.encode(), whole)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
        finally:
            os.close(descriptor)

    def _rotate(self, number: int) -> None:
        current = self._path / _CURRENT
        with current.open(encoding="utf-8", errors="replace") as stream:
            first = _number(stream.readline().rstrip("\n")) or number - 1
        current.rename(self._path / f"audit-{first:08}.jsonl")
        for old in self._files()[:-_KEPT]:
            old.unlink()

    def _head(self) -> Head:
        try:
            return Head.parse((self._path / _HEAD).read_text(encoding="ascii"))
        except (FileNotFoundError, UnicodeDecodeError, ValueError):
            return Head()

    def _keep(self, head: Head) -> None:
        fresh = self._path / f".{_HEAD}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            os.write(descriptor, f"{head}\n".encode())
        finally:
            os.close(descriptor)
        fresh.replace(self._path / _HEAD)


def _write_all(descriptor: int, content: bytes, place: int) -> None:
    if os.pwrite(descriptor, content, place) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


@dataclass(frozen=True)
class Verdict:
    """What a log says, and whether its chain holds. `broken` names the first line that does not fit, and why."""

    entries: tuple[dict[str, Any], ...] = ()
    head: Head = field(default_factory=Head)
    broken: str = ""
    note: str = ""


@dataclass(frozen=True)
class Content:
    """The lines of a log, oldest first, and its head. If `rotated`, older ones may have been removed."""

    lines: tuple[str, ...] = ()
    head: Head = field(default_factory=Head)
    rotated: bool = False

    @property
    def entry(self) -> dict[str, Any]:
        """What `parse` reads, as data for JSON."""
        return {"lines": list(self.lines), "head": str(self.head), "rotated": self.rotated}

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Content:
        """Read what `entry` wrote. Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(tuple(str(line) for line in said["lines"]), Head.parse(str(said["head"])), bool(said["rotated"]))


def verify(content: Content, known: Iterable[Head] = ()) -> Verdict:
    """Check a chain. Its head, and each that others remember (`known`), must be in it, unless it was rotated away."""
    entries: list[dict[str, Any]] = []
    hashes: dict[int, str] = {}
    broken, last = "", Head()
    for place, line in enumerate(content.lines, 1):
        try:
            entry = json.loads(line)
            number, before = int(entry["n"]), str(entry["before"])
        except (ValueError, KeyError, TypeError, RecursionError):
            broken = broken or f"Line {place} is not an entry."
            continue
        if not broken and (wrong := _misfit(number, before, last)):
            broken = f"Line {place}: {wrong}"
        entries.append(entry)
        last = Head(number, hash_of(line))
        hashes[number] = last.hash
    first = int(entries[0]["n"]) if entries else 1
    if not broken and first > 1 and not content.rotated:
        broken = f"Line 1: the entries before {first} are missing."
    if not broken:
        heads = [head for head in (content.head, *known) if head.number >= first]
        broken = next(filter(None, (_missed(head, hashes, last) for head in heads)), "")
    return Verdict(tuple(entries), last, broken, f"Entries before {first} are no longer kept." if first > 1 else "")


def _misfit(number: int, before: str, last: Head) -> str:
    """Return why an entry cannot follow the last one."""
    if not last.number:  # it is the first that is kept
        return "the first entry follows another one." if number == 1 and before != NOTHING else ""
    if number != last.number + 1:
        return f"entry {number} follows entry {last.number}."
    return "" if before == last.hash else f"entry {number} does not fit entry {last.number}, which was changed."


def _missed(head: Head, hashes: Mapping[int, str], last: Head) -> str:
    if head.number not in hashes:
        return f"Entries are missing at the end: there was an entry {head.number}, and the last one is {last.number}."
    return "" if hashes[head.number] == head.hash else f"Entry {head.number} was changed."


def _number(line: str) -> int:
    try:
        return int(json.loads(line)["n"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
