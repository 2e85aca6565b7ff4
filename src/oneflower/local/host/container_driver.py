"""Machines as containers: the root file system of an appliance image, with its own systemd as process 1.

All machines share the image's files, read-only, and write to a layer of their own. systemd-nspawn runs each without
registering it anywhere, so that no service manager is needed on the host.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.local.host.driver import Boot
from oneflower.local.host.processes import MARK, sweep
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import run
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection

    from oneflower.local.host.bridge import Bridge
    from oneflower.local.oned.models import Vm

NEEDED = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "mount": "mount"}


class ContainerDriver:
    """Runs machines from the root file system in the folder `image`, on a bridge. Needs root."""

    stop_limit = 40.0

    def __init__(self, image: Path, bridge: Bridge) -> None:
        self._image = image
        self._bridge = bridge
        self._bridge.up()
        self.gateway, self.subnet = bridge.gateway, bridge.subnet

    def address(self, used: Collection[str]) -> str:
        """Return a free address on the bridge. Raises `OneflowerError`."""
        return self._bridge.address(used)

    async def prepare(self, vm: Vm, folder: Path) -> Boot:
        """Lay the machine's own layer over the image and plug its NICs in. Raises `OneflowerError`."""
        root = await asyncio.to_thread(self._mount, folder)
        nics = vm.template["NIC"]
        hardware = [nic["MAC"] for nic in (nics if isinstance(nics, list) else [nics])]
        namespace = await asyncio.to_thread(self._bridge.plug, vm.id, hardware)
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=read-only",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            f"--directory={root}", f"--machine=oneflower-{vm.id}",
            f"--network-namespace-path={namespace}", "--capability=CAP_NET_ADMIN",
            f"--bind-ro={folder / 'context'}:/context",
        ]  # fmt: skip
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", MARK: str(folder)}
        return Boot(command, environment)

    def _mount(self, folder: Path) -> Path:
        root, layer, work = folder / "root", folder / "disk", folder / "work"
        for each in (root, layer, work):
            each.mkdir(exist_ok=True)
        layer.chmod(0o755)  # it is the machine's own `/`
        if not root.is_mount():
            layers = f"lowerdir={self._image},upperdir={layer},workdir={work}"
            run(
                ["mount", "-t", "overlay", "-o", layers, "oneflower", str(root)],
                "lay a machine's disk over the image",
                "The file system of the state folder must allow it: set ONEFLOWER_HOME to a folder on a local disk.",
            )
        return root

    def shut_down(self, pid: int, _folder: Path) -> None:
        """Ask the machine's init to shut it down."""
        os.kill(pid, signal.SIGTERM)

    def sweep(self, folder: Path) -> None:
        """End the machine's processes, take it off the bridge, and release its disk."""
        sweep(folder)  # nspawn
        self._bridge.unplug(int(folder.name))
        root = folder / "root"
        if root.is_mount():
            run(["umount", "--lazy", str(root)], "release a machine's disk", f"Unmount {root}.")


def check_host(image: Path) -> None:
    """Raise `OneflowerError` unless this machine can run containers of the root file system in the folder `image`."""
    require_root("A local cloud with --image", "its machines are containers")
    require_packages("A local cloud with --image", NEEDED)
    if not Path(image, "usr/lib/systemd/systemd").exists():
        raise OneflowerError(
            f"{image} is not the root file system of an image: it has no systemd.",
            "`oneflower image test IMAGE` unpacks an image and tries it.",
            ExitCode.USAGE,
        )
