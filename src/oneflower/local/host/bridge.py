"""A bridge in this network namespace, to which machines are plugged: one virtual cable or one tap for each NIC.

The network interfaces of a container are in a namespace of its own, which outlives a reboot of the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.local.host.addresses import Addresses
from oneflower.local.oned.vms import Subnet
from oneflower.process import run
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NAMESPACES = Path("/run/netns")
_PATIENCE, _PULSE = 5.0, 0.02
_HINT = "Machines of an image need root and the command `ip` (Debian's iproute2)."


class Bridge:
    """The network 10.N.0.0/16 on this machine. `gateway` is this machine's own address in it."""

    def __init__(self, network: int) -> None:
        prefix = f"10.{network}"
        self.gateway = f"{prefix}.0.1"
        self.subnet = Subnet(f"{prefix}.0.0", "255.255.0.0", self.gateway)
        self._addresses = Addresses(prefix)
        self._name = f"oneflower{network}"

    def address(self, used: Collection[str]) -> str:
        """Return a free address in the network. Raises `OneflowerError`."""
        return self._addresses.next_free(used)

    def up(self) -> None:
        """Make the bridge, unless an earlier daemon made it. Raises `OneflowerError`."""
        if not _exists(self._name):
            _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "replace", f"{self.gateway}/16", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def plug(self, machine: int, hardware: Sequence[str]) -> Path:
        """Return a network namespace with an interface ethI for each of the `hardware` addresses of a machine."""
        self.unplug(machine)
        namespace = self._namespace(machine)
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        for index, address in enumerate(hardware):
            cable = self._cable(machine, index)
            peer = ("peer", "name", f"eth{index}", "address", address, "netns", namespace)
            _ip("link", "add", cable, "type", "veth", *peer)
            _ip("link", "set", cable, "master", self._name, "up")
        return NAMESPACES / namespace

    def taps(self, machine: int, count: int) -> list[str]:
        """Return interfaces on the bridge for the `count` network cards of a virtual machine."""
        self.unplug(machine)
        taps = [self._cable(machine, index) for index in range(count)]
        for tap in taps:
            _ip("tuntap", "add", tap, "mode", "tap")
            _ip("link", "set", tap, "master", self._name, "up")
        return taps

    def unplug(self, machine: int) -> None:
        """Take a machine off the bridge, if it is there, and end what still runs in its namespace.

        A container outlives the program that started it, if that is killed: then only its network tells which it is.
        """
        deadline = time.monotonic() + _PATIENCE
        while (pids := self._inhabitants(machine)) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_PULSE)
        for index in range(8):
            if _exists(self._cable(machine, index)):
                with suppress(OneflowerError):  # it goes with its other end, which may be first
                    _ip("link", "delete", self._cable(machine, index))
        if (NAMESPACES / self._namespace(machine)).exists():
            _ip("netns", "delete", self._namespace(machine))

    def _inhabitants(self, machine: int) -> list[int]:
        if not (NAMESPACES / self._namespace(machine)).exists():
            return []
        return [int(pid) for pid in _ip("netns", "pids", self._namespace(machine)).split()]

    def _namespace(self, machine: int) -> str:
        return f"{self._name}-{machine}"

    def _cable(self, machine: int, index: int) -> str:
        return f"of{machine}x{index}"


def _exists(interface: str) -> bool:
    # /sys shows the interfaces of the network namespace in which it was mounted, which may be another.
    return any(name == interface for _, name in socket.if_nameindex())


def _ip(*arguments: str) -> str:
    return run(["ip", *arguments], "set up the network of the machines", _HINT)
