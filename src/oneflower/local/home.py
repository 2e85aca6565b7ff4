"""Where the local cloud keeps its files: its state in the user's state folder, and what can be rebuilt in the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from oneflower_appliance.approvals import FOLDER, SUFFIX
from oneflower_appliance.files import private_directory


def _folder(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "oneflower"


@dataclass(frozen=True)
class LocalHome:
    """The folders of one user's local cloud. ONEFLOWER_HOME replaces the state folder."""

    state: Path
    cache: Path

    @classmethod
    def of_user(cls) -> LocalHome:
        """Return the folders that the environment sets."""
        chosen = os.environ.get("ONEFLOWER_HOME")
        state = Path(chosen) if chosen else _folder("XDG_STATE_HOME", ".local/state")
        return cls(state.absolute(), _folder("XDG_CACHE_HOME", ".cache").absolute())

    def make(self) -> LocalHome:
        """Create the state folder, readable by this user only."""
        private_directory(self.state)
        return self

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.state / "cloud.db"

    @property
    def record(self) -> Path:
        """The record of the running daemon: pid, ports, credentials."""
        return self.state / "daemon.json"

    @property
    def failure(self) -> Path:
        """The file with the reason why the daemon could not start."""
        return self.state / "daemon.failure"

    @property
    def one_auth(self) -> Path:
        """The file with the credentials, as OpenNebula's own tools read it (ONE_AUTH)."""
        return self.state / "one_auth"

    @property
    def ssh_key(self) -> Path:
        """The key that logs in to machines that are containers; beside it, in `.pub`, what they accept."""
        return self.state / "ssh_key"

    @property
    def lock(self) -> Path:
        """The lock that the daemon holds while it runs."""
        return self.state / "daemon.lock"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.state / "daemon.log"

    @property
    def logs(self) -> Path:
        """Consoles of machines that are gone."""
        return self.state / "logs"

    def machine(self, vm_id: int) -> Path:
        """The disk of a virtual machine."""
        return self.state / "machines" / str(vm_id)

    def held(self, vm_id: int, content: str) -> bytes | None:
        """Return the bundle of an app that waits on a virtual machine for an approval, None if there is none."""
        path = self.machine(vm_id) / "var" / FOLDER / f"{content}{SUFFIX}"
        return path.read_bytes() if path.is_file() else None

    def console(self, vm_id: int) -> Path:
        """What a virtual machine writes to its console. `init.rotate` moves the start of a long one to NAME.1."""
        return self.machine(vm_id) / "console.log"

    @property
    def unpacked(self) -> Path:
        """The files of the images that containers boot, beside the one that all of them boot."""
        return self.state / "unpacked"

    @property
    def images(self) -> Path:
        """The parts of which the next image is built."""
        return self.cache / "images"

    @property
    def runtimes(self) -> Path:
        """The local counterparts of appliance images."""
        return self.cache / "runtimes"
