"""The console of a machine: a file that its init moves aside when it has grown too long (`init.rotate`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.printable import of_console

if TYPE_CHECKING:
    from pathlib import Path

_SEEN = 256  # bytes by which the place is found again in what was moved aside


class Console:
    """Reads a console: first how it ends, then what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._place = 0
        self._seen = b""
        self._begun = b""

    def last(self, lines: int | None = None) -> list[str]:
        """Return the last lines, None for all. What is new is new from here on."""
        content = _read(self._path, 0)
        self._place, self._seen = len(content), content[-_SEEN:]
        found = _lines(content)
        if lines is None or len(found) < lines:
            found = _lines(_read(self._older, 0)) + found
        return found if lines is None else found[-lines:]

    def news(self) -> list[str]:
        """Return the lines that were completed since the last look."""
        new = b""
        if self._path.exists() and self._path.stat().st_size < self._place:  # moved aside, with lines not seen yet
            older = _read(self._older, 0)
            found = older.rfind(self._seen)
            new, self._place = older[found + len(self._seen) if found >= 0 else 0 :], 0
        more = _read(self._path, self._place)
        self._place += len(more)
        new += more
        self._seen = (self._seen + new)[-_SEEN:]
        complete, _, self._begun = (self._begun + new).rpartition(b"\n")
        return _lines(complete)


def _read(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read()
    except OSError:
        return b""


def _lines(content: bytes) -> list[str]:
    return of_console(content.decode(errors="replace").splitlines())
