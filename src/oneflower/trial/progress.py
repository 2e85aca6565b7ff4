"""What a trial says on the way: its steps, how far a boot is, and what the machines write to their consoles."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from oneflower.clouds import LocalSurroundings
from oneflower.printable import in_a_line
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oneflower.cloud import Federation, FederationStatus, VmStatus

_CONSOLE = 40
_SILENCE = 15.0  # seconds after which somebody who reads a log would wonder


def last_lines(vm: VmStatus, count: int) -> list[str]:
    """Return the last lines of a machine's console."""
    return [in_a_line(line) for line in LocalSurroundings().console(vm.id, count)]


class Watcher:
    """Says from time to time how far the machines are that are not ready yet."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._began = self._said

    def __call__(self, status: FederationStatus) -> None:
        """Look at the machines of a federation."""
        now = time.monotonic()
        if now - self._said < _SILENCE:
            return
        self._said = now
        for vm in status.vms:
            if not vm.ready:
                where = "".join(last_lines(vm, 1)) or "nothing on its console"
                sys.stderr.write(f"    {now - self._began:4.0f} s  {vm.name}: {where}\n")


def show(federation: Federation) -> None:
    """Print what a federation reports, and how the consoles of its machines end."""
    for text in federation.logs():
        sys.stderr.write(f"    {in_a_line(text)}\n")
    for vm in federation.status().vms:
        for line in last_lines(vm, _CONSOLE):
            sys.stderr.write(f"    {vm.name} | {line}\n")


@dataclass(frozen=True)
class Tried:
    """One thing that a trial did, what else is to be said of it, and how many seconds it took."""

    what: str
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{f'{self.what}: {self.detail}' if self.detail else self.what} ({self.seconds:.1f} s)"


class Diary:
    """What a trial did so far."""

    def __init__(self) -> None:
        self.entries: list[Tried] = []

    @contextmanager
    def timed(self, what: str) -> Iterator[Callable[[str], None]]:
        """Say what is done and how long it took. What is yielded takes what else to say of it."""
        sys.stderr.write(f"  {what} ...\n")
        start, more = time.monotonic(), list[str]()

        def entry() -> Tried:
            return Tried(what, ": ".join(more), round(time.monotonic() - start, 1))

        try:
            yield more.append
        except BaseException:
            sys.stderr.write(f"✗ {entry()}\n")
            raise
        self.entries.append(entry())
        sys.stderr.write(f"✓ {self.entries[-1]}\n")

    def write(self, path: Path) -> None:
        """Write it, for the process that started the trial."""
        write_atomic(path, json.dumps([asdict(each) for each in self.entries]))

    @classmethod
    def read(cls, path: Path) -> list[Tried]:
        """Return what such a file has."""
        return [Tried(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
