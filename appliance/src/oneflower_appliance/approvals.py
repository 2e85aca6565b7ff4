"""Apps that wait for the approval of a site's operator, and those that were approved while its SuperNodes run.

A SuperNode keeps each app that it holds in a folder (`Asks`), with its bundle. Its agent publishes which ones wait. The
operator's client answers with an attribute of the VM (`APPROVED`). OneGate lets every VM of a service write that, so
each approval has a proof: an authentication code whose key is the VM's OneGate token, which only that VM has and only
the user who created the VM can compute. On a machine root can also write content hashes into a file (`PATH`).
"""

from __future__ import annotations

import hmac
import json
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.files import private_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower_appliance.app_bundle import Bundle

PATH = "/etc/oneflower/approved-apps"
APPROVED = "FL_APPROVED"  # written by the operator's client: `HASH:PROOF HASH:PROOF`
FOLDER = "asks"  # of the machine's home
SUFFIX = ".fab"
_FILE, _HELD = "approved", "held"
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST = 8  # apps that wait at a time; one more takes the place of the oldest
_MOST_APPROVED = 20  # in the attribute: the agent keeps what it has seen
_LARGEST = 1 << 20  # bytes of a file
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Ask:
    """An app that waits: publisher, name and version, its content hash, Flower's id of the run, and since when.

    `since` is in seconds since 1970, by the clock of the SuperNode's machine.
    """

    app: str
    content: str
    run: str
    since: int

    @classmethod
    def parse(cls, said: Any) -> Ask:
        """Read one, which another machine may have written. Raises `KeyError`, `TypeError` or `ValueError`."""
        if not _HASH.fullmatch(said["content"]) or not str(said["app"]).isprintable():
            raise ValueError("not an ask")
        return cls(str(said["app"])[:200], said["content"], str(int(said["run"])), int(said["since"]))


class Asks:
    """The folder in which a SuperNode leaves what waits, and finds what was approved. It is the SuperNode's own."""

    def __init__(self, folder: Path, of_root: Path = Path(PATH)) -> None:
        self._folder = folder
        self._of_root = of_root

    def add(self, bundle: Bundle, run: int) -> Ask:
        """Let an app wait. Raises `OneflowerError` or `BundleError`."""
        label = "".join(letter if letter.isprintable() else "?" for letter in bundle.label[:200])
        ask = Ask(label, bundle.content_hash, str(run), int(time.time()))
        private_directory(self._folder)
        waiting = self.pending()
        if known := next((one for one in waiting if one.content == ask.content), None):
            ask = Ask(ask.app, ask.content, ask.run, known.since)
        elif len(waiting) >= _MOST:
            self.remove(waiting[0].content)
        write_atomic(self.bundle(ask.content), bundle.packed)
        write_atomic(self._folder / f"{ask.content}.json", json.dumps(asdict(ask)))
        return ask

    def bundle(self, content: str) -> Path:
        """Return where the bundle of an app is that waits."""
        return self._folder / f"{content}{SUFFIX}"

    def pending(self) -> list[Ask]:
        """Return what waits, the oldest first."""
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError, KeyError, TypeError, ValueError):
                found.append(Ask.parse(json.loads(path.read_text(encoding="utf-8"))))
        return sorted(found, key=lambda ask: (ask.since, ask.content))

    def remove(self, content: str) -> None:
        """Let an app wait no longer."""
        for path in (self._folder / f"{content}.json", self.bundle(content)):
            path.unlink(missing_ok=True)

    def hold(self, *, held: bool) -> None:
        """Note that the SuperNode holds a run now, or does so no longer."""
        with suppress(OSError):
            if held:
                (self._folder / _HELD).touch()
            else:
                (self._folder / _HELD).unlink(missing_ok=True)

    @property
    def holds(self) -> bool:
        """Whether the SuperNode holds a run now."""
        return (self._folder / _HELD).exists()

    def approved(self) -> frozenset[str]:
        """Return the content hashes that were approved: by the operator's client, and by root on this machine."""
        return _hashes(self._folder / _FILE, os.geteuid()) | _hashes(self._of_root, 0)

    def approve(self, contents: Iterable[str]) -> None:
        """Remember approvals. Raises `OneflowerError`."""
        known = _hashes(self._folder / _FILE, os.geteuid())
        if new := set(contents) - known:
            private_directory(self._folder)
            write_atomic(self._folder / _FILE, "".join(f"{one}\n" for one in sorted(known | new)))


def _hashes(path: Path, owner: int) -> frozenset[str]:
    """Return the content hashes in a file: none if it is a link, another user's, or one that others may write."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return frozenset()
    with os.fdopen(opened, "rb") as stream:
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != owner or facts.st_mode & _OTHERS_WRITE:
            return frozenset()
        lines = stream.read(_LARGEST).decode("ascii", "replace").splitlines()
    return frozenset(line.strip() for line in lines if _HASH.fullmatch(line.strip()))


def write_asks(asks: Iterable[Ask]) -> str:
    """Return what waits as text, empty if nothing does."""
    found = [asdict(ask) for ask in asks]
    return json.dumps(found) if found else ""


def read_asks(text: str) -> tuple[Ask, ...]:
    """Read what `write_asks` wrote, as far as it can be read."""
    found = []
    with suppress(ValueError, TypeError, RecursionError):
        for said in json.loads(text or "[]")[:_MOST]:
            with suppress(KeyError, TypeError, ValueError):
                found.append(Ask.parse(said))
    return tuple(found)


def prove(token: str, vm: int, content: str) -> str:
    """Return the proof that who knows the OneGate token of a VM approves an app on it."""
    key = hmac.digest(token.encode(), b"oneflower FL_APPROVED, version 1", "sha256")
    return hmac.digest(key, f"{vm} {content}".encode(), "sha256").hex()


def add_approval(token: str, vm: int, content: str, before: str) -> str:
    """Return the attribute of a VM with one more approval."""
    others = [one for one in before.split() if one.partition(":")[0] != content]
    return " ".join([*others, f"{content}:{prove(token, vm, content)}"][-_MOST_APPROVED:])


def proven(token: str, vm: int, text: str) -> frozenset[str]:
    """Return the content hashes in the attribute of a VM whose proof is valid."""
    pairs = (one.partition(":") for one in text.split()[:_MOST_APPROVED])
    return frozenset(
        content
        for content, _, proof in pairs
        if _HASH.fullmatch(content) and hmac.compare_digest(proof.encode(), prove(token, vm, content).encode())
    )
