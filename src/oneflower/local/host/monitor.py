"""QEMU's monitor of a machine (QMP), a socket in the machine's folder."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from oneflower.local.host.qemu import MONITOR

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE = 5.0
_ORDERS = b'{"execute": "qmp_capabilities"}\n{"execute": "system_powerdown"}\n'
_ANSWERS = 2


def press_power_button(folder: Path) -> None:
    """Press the power button of the machine in `folder`; its system shuts down. Raises `OSError`."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(_PATIENCE)
            monitor.connect(f"/proc/self/fd/{descriptor}/{MONITOR}")  # the whole path may be too long for a socket
            monitor.sendall(_ORDERS)
            with monitor.makefile("rb") as lines:
                answers = (line for line in lines if line.startswith(b'{"return"'))
                for _ in range(_ANSWERS):
                    if not next(answers, b""):
                        raise ConnectionResetError("QEMU closed its monitor")
    finally:
        os.close(descriptor)
