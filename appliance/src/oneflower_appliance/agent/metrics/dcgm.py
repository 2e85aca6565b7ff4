"""NVIDIA's DCGM exporter beside ours: found or started on the machine's loopback, and handed on from there.

It does not ask who reads it. So it listens on loopback only, and its page is a page of our exporter, which does.
"""

from __future__ import annotations

import logging
import shutil
import socket
import time
import urllib.request
from typing import TYPE_CHECKING

from oneflower_appliance.formats import join_address
from oneflower_appliance.metrics import DCGM_PORT, PATH
from oneflower_appliance.process import Child

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.agent.machine import Machine

log = logging.getLogger(__name__)

COMMAND = "dcgm-exporter"
_BETWEEN_STARTS = 30.0  # seconds
_PATIENCE = 2.0
_LARGEST = 4 << 20


class Dcgm:
    """The DCGM exporter of `machine`."""

    def __init__(self, machine: Machine, find: Callable[[str], str | None] = shutil.which) -> None:
        self._machine = machine
        self._find = find
        self._address = (machine.loopback, DCGM_PORT)
        self._child: Child | None = None
        self._due = 0.0

    def look(self) -> None:
        """Start it, unless one answers already, as a service of the machine. What is wrong is in the status file."""
        if (self._child and not self._child.ended.is_set()) or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _BETWEEN_STARTS
        remark = ""
        if self._child is None and self._answers():
            log.info("The DCGM exporter at %s is used.", join_address(self._address))
        elif not (program := self._find(COMMAND)):
            remark = (
                f"FL_DCGM_ENABLED is YES, and {COMMAND} is not installed: there are no metrics of DCGM. Install "
                "NVIDIA's datacenter-gpu-manager-exporter in the image, or set FL_DCGM_ENABLED=NO."
            )
        else:
            if self._child:
                remark = f"{COMMAND} ended and is started again: {self._child.last_line()}"
            self._child = Child([program, "--address", join_address(self._address)], {}, _log)
        self._machine.journal.remark([remark] if remark else [], "dcgm")

    def page(self) -> bytes:
        """Return its metrics. Raises `OSError` if it does not answer."""
        url = f"http://{join_address(self._address)}{PATH}"
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            return bytes(answer.read(_LARGEST))

    def close(self) -> None:
        """End it, if it was started here."""
        if self._child:
            self._child.stop(1)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PATIENCE)
            return probe.connect_ex(self._address) == 0


def _log(line: str) -> None:
    logging.getLogger(COMMAND).debug("%s", line)
