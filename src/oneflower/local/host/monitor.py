"""QEMU's monitor of a machine (QMP), a socket in the machine's folder."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower.local.host.qemu import MONITOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PATIENCE = 5.0
_HELLO = {"execute": "qmp_capabilities"}
_GONE = b"DEVICE_DELETED"


def press_power_button(folder: Path) -> None:
    """Press the power button of the machine in `folder`; its system shuts down. Raises `OSError`."""
    with _monitor(folder) as monitor:
        _ask(monitor, _HELLO, {"execute": "system_powerdown"})


def unplug_disk(folder: Path, device: str) -> None:
    """Take a disk from the machine in `folder`, once its system has let go of it. Raises `OSError`."""
    with _monitor(folder) as monitor:
        _ask(monitor, _HELLO, {"execute": "device_del", "arguments": {"id": device}}, until=_GONE)


@contextmanager
def _monitor(folder: Path) -> Iterator[socket.socket]:
    descriptor = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(_PATIENCE)
            monitor.connect(f"/proc/self/fd/{descriptor}/{MONITOR}")  # the whole path may be too long for a socket
            yield monitor
    finally:
        os.close(descriptor)


def _ask(monitor: socket.socket, *orders: Mapping[str, Any], until: bytes = b"") -> None:
    """Give orders, and wait for their answers, and then for an event if there is one to wait for."""
    monitor.sendall(b"".join(json.dumps(order).encode() + b"\n" for order in orders))
    left = len(orders)
    with monitor.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b'{"error"'):
                raise OSError(f"QEMU refuses: {json.loads(line)['error'].get('desc', line)}")
            left -= line.startswith(b'{"return"')
            until = b"" if until and until in line else until
            if left <= 0 and not until:
                return
    raise ConnectionResetError("QEMU closed its monitor")
