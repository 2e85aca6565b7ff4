"""What the cache has of runtimes, and how what nobody uses is removed.

There are runtimes, copies of the appliance's code, and packages that were installed for apps. All but the last are made
again when they are needed. Each use is noted as the time of a file or folder, under a lock that `remove` holds, too: so
what a command has just found is not removed before its processes are there to be seen.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from oneflower_appliance.app_packages import Choice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

COMPLETE = ".complete"  # in a runtime that was built to its end
APPS = "apps"
_LOCK = "use.lock"
_RUNTIME, _PACKAGES = re.compile(r"flwr-[\w.+-]+-[0-9a-f]{12}"), re.compile(r"packages-[0-9a-f]{16}")
_APPLIANCE = re.compile(r"appliance-[0-9a-f]{12}")
_UNFINISHED = re.compile(r"\.(new|appliance|gone)-\w+")  # what a command that was killed has left
_JUST = 600.0  # seconds within which something counts as used: a command may be about to start with it
_DAY = 86400.0


@dataclass(frozen=True)
class Entry:
    """A folder in the cache: what it is, its path, when it was last used (Unix time), and whether it is used now."""

    kind: str
    path: Path
    used: float
    in_use: bool

    @property
    def size(self) -> int:
        """The bytes of its files. Links are not followed."""
        return _size(self.path)


@contextmanager
def using(runtimes: Path) -> Iterator[None]:
    """Keep `remove` from removing anything, while something is found and its use is noted."""
    with _locked(runtimes / _LOCK, fcntl.LOCK_SH):
        yield


def note_use(mark: Path) -> None:
    """Note that what has this mark is used now."""
    with suppress(OSError):
        os.utime(mark)


def entries(runtimes: Path, needed: Collection[str] = ()) -> list[Entry]:
    """Return what there is, by kind, and what was used last first. Runtimes with the names `needed` are in use."""
    texts = _texts_of_processes()
    found = [_entry(kind, path, texts, needed) for kind, path in _places(runtimes)]
    return sorted(found, key=lambda entry: (entry.kind, -entry.used))


def remove(runtimes: Path, days: float, needed: Collection[str] = ()) -> list[tuple[Entry, int]]:
    """Remove what is not in use and was not used for a number of days. Return it, with the bytes of each."""
    if not _is_own(runtimes):
        return []
    before = time.time() - max(days * _DAY, _JUST)
    doomed: list[tuple[Entry, Path]] = []
    with _locked(runtimes / _LOCK, fcntl.LOCK_EX):
        for entry in entries(runtimes, needed):
            with _locked(entry.path.with_name(f"{entry.path.name}.lock"), fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
                if free and not entry.in_use and entry.used < before:
                    gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=runtimes))
                    doomed.append((entry, entry.path.rename(gone / entry.path.name)))
        for entry, _ in doomed:
            _forget(entry)
    removed = [(entry, _size(path)) for entry, path in doomed]
    for _, path in doomed:
        shutil.rmtree(path.parent, ignore_errors=True)
    return removed


def _places(runtimes: Path) -> Iterator[tuple[str, Path]]:
    """Yield what there is: its kind and its path."""
    kinds = {"runtime": _RUNTIME, "appliance": _APPLIANCE, "unfinished": _UNFINISHED}
    of_apps = {"packages": _PACKAGES, "unfinished": _UNFINISHED}
    inside = [(path, of_apps) for runtime in _folders(runtimes / APPS) for path in _folders(runtime)]
    for path, known in [*((path, kinds) for path in _folders(runtimes)), *inside]:
        for kind, name in known.items():
            if name.fullmatch(path.name):
                yield kind, path


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder of this user's. Links are left out: what they name may be anybody's."""
    return [Path(each) for each in os.scandir(folder) if each.is_dir(follow_symlinks=False)] if _is_own(folder) else []


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.geteuid()


def _entry(kind: str, path: Path, texts: str, needed: Collection[str]) -> Entry:
    runtime = path.parent.name if path.parent.parent.name == APPS else path.name
    used = max(_time(path), _time(path / COMPLETE))
    return Entry(kind, path, used, runtime in texts or runtime in needed)


def _time(path: Path) -> float:
    """Return when a file or folder was changed, 0 if it is gone: another command may remove it at any moment."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def _texts_of_processes() -> str:
    """Return the command lines and the environments of this user's processes: those of machines name what they use."""
    found: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid():
                found += [*process.cmdline(), *process.environ().values()]
    return "\n".join(found)


def _forget(entry: Entry) -> None:
    """Let no app name packages that are gone."""
    for path in entry.path.parent.glob("app-*.json") if entry.kind == "packages" else ():
        choice = Choice.read(path)
        if choice is not None and choice.packages == entry.path.name:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Hold a lock, or yield False if another has it and `how` does not wait. Without its file, there is no lock.

    That of a runtime is made by who builds it. The other cannot be made on a full disk, where runtimes can be used.
    """
    with ExitStack() as stack:
        free = True
        with suppress(OSError):
            stream = stack.enter_context(path.open("a" if path.name == _LOCK else "r"))
            try:
                fcntl.flock(stream, how)
            except BlockingIOError:
                free = False
        yield free
