"""An SSH tunnel to the SuperLink, whose Control API listens only on the loopback of its VM.

It uses the user's own `ssh`, with their keys and agent. It verifies the machine: it accepts only the host keys that the
SuperLink published through OneGate.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud.wording import SshFailure, ssh_failure
from oneflower.process import Background, run
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.cloud.status import FederationStatus

_ALIAS = "oneflower-superlink"
_SSH = 22  # the usual port
_PATIENCE = 30.0
_PULSE = 0.05
_PAUSE = 0.5  # between two looks whether the tunnel is still open


@dataclass(frozen=True)
class SshOptions:
    """How to log in to the SuperLink's machine. Without a `key`, `ssh` uses the keys that it finds."""

    user: str = "root"
    port: int = _SSH
    key: Path | None = None

    @classmethod
    def of_environment(cls) -> SshOptions:
        """Read ONEFLOWER_SSH_USER, ONEFLOWER_SSH_PORT and ONEFLOWER_SSH_KEY. Raises `OneflowerError`."""
        port, key = os.environ.get("ONEFLOWER_SSH_PORT", str(_SSH)), os.environ.get("ONEFLOWER_SSH_KEY")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise OneflowerError(f"ONEFLOWER_SSH_PORT is {port!r}, which is not a valid port.", "Most machines use 22.")
        return cls(os.environ.get("ONEFLOWER_SSH_USER", "root"), int(port), Path(key).expanduser() if key else None)

    def login(self, ip: str) -> str:
        """Return the command with which a person logs in to a machine."""
        port = f" -p {self.port}" if self.port != _SSH else ""
        key = f" -i {self.key}" if self.key else ""
        return f"ssh{port}{key} {self.user}@{ip}"

    def journal(self, ip: str) -> str:
        """Return how a person reads what apps print on a machine."""
        return f"what apps print on a machine is in its journal: `{self.login(ip)} journalctl -u oneflower-agent`."


def make_key(path: Path) -> str:
    """Return the public half of the SSH key at `path`. Make the key if it is not there. Raises `OneflowerError`."""
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "oneflower", "-f", str(path)]
        run(command, "make an SSH key", "Install openssh-client, and check that there is disk space.")
    return path.with_name(f"{path.name}.pub").read_text(encoding="ascii").strip()


@contextmanager
def tunnel(status: FederationStatus, options: SshOptions) -> Iterator[str]:
    """Open a tunnel to a federation's Control API and yield its local address, host:port. Raises `OneflowerError`."""
    link, control = status.reachable()
    if not status.host_keys:
        raise OneflowerError(
            f"{link.name} published no SSH host key, so it cannot be verified.",
            "Its image needs an SSH server with host keys in /etc/ssh. Deploy again with such an image.",
            ExitCode.CONFLICT,
        )
    with tempfile.TemporaryDirectory(prefix="oneflower-ssh-") as folder:
        known = Path(folder) / "known_hosts"
        write_atomic(known, "".join(f"{_ALIAS} {key}\n" for key in status.host_keys))
        local = _free_port()
        command = _command(link.ip, control, known, local, options)
        process = _Kept(command, Path(folder) / "ssh.log")
        try:
            _wait(process, local, f"{options.user}@{link.ip}")
            process.keep()
            yield f"127.0.0.1:{local}"
        finally:
            process.stop()


class _Kept:
    """The program `ssh`. Once the tunnel is open, it is started again when it ends: the machine may boot again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self._process = Background(command, log)
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="tunnel", daemon=True)

    def keep(self) -> None:
        self._keeper.start()

    def _keep(self) -> None:
        while not self._stopped.wait(_PAUSE):
            if self._process.ended() is not None:
                self._process = Background(self._command, self._log)

    def ended(self) -> str | None:
        return self._process.ended()

    def stop(self) -> None:
        self._stopped.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self._process.stop()


def _command(ip: str, control: str, known: Path, local: int, options: SshOptions) -> list[str]:
    settings = {
        "BatchMode": "yes", "ExitOnForwardFailure": "yes", "StrictHostKeyChecking": "yes", "HostKeyAlias": _ALIAS,
        "UserKnownHostsFile": str(known), "GlobalKnownHostsFile": "/dev/null", "UpdateHostKeys": "no",
        "ConnectTimeout": "15", "ServerAliveInterval": "5", "ControlPath": "none",
    }  # fmt: skip
    command = ["ssh", "-N", "-p", str(options.port), "-L", f"127.0.0.1:{local}:{control}"]
    for name, value in settings.items():
        command += ["-o", f"{name}={value}"]
    if options.key is not None:
        command += ["-i", str(options.key), "-o", "IdentitiesOnly=yes"]
    return [*command, f"{options.user}@{ip}"]


def _wait(process: _Kept, port: int, whom: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        if (output := process.ended()) is not None:
            raise _failed(whom, output)
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise _failed(whom, f"no tunnel after {_PATIENCE:.0f} s")
        time.sleep(_PULSE)


def _failed(whom: str, output: str) -> OneflowerError:
    failure = ssh_failure(output)
    if failure is SshFailure.HOST_KEY:
        return OneflowerError(
            f"{whom} is not the expected machine: its SSH host key is not one that the SuperLink published through "
            "OneGate.",
            "Somebody may be intercepting the connection. If you set up the machine again by hand, restart it so that "
            "it publishes its keys again.",
            ExitCode.CONFLICT,
        )
    if failure is SshFailure.LOGIN:
        return OneflowerError(
            f"{whom} refuses the SSH login.",
            "The machine accepts the public key of your OpenNebula user (SSH_PUBLIC_KEY). Set it and deploy again, or "
            "give another key in ONEFLOWER_SSH_KEY.",
            ExitCode.CONFLICT,
        )
    last = " ".join(output.split()[-40:]) or "ssh ended"
    return OneflowerError(
        f"No SSH tunnel to {whom}: {last}", "Check that this machine can reach that address.", ExitCode.CONFLICT
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
