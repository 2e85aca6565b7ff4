"""Machines as containers: the root file system of an appliance image, with its own systemd as process 1.

All machines share the image's files, read-only, and write to a layer of their own, one for each disk. systemd-nspawn
runs each without registering it anywhere, so that no service manager is needed on the host.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images.unpack import unpack
from oneflower.local.host.driver import Boot, Disk
from oneflower.local.host.processes import MARK, sweep
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import run
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.previous_disk import CONTAINER as OTHER_DISKS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from oneflower.local.host.bridge import Bridge
    from oneflower.local.oned.models import Vm

NEEDED = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "mount": "mount"}


class ContainerDriver:
    """Runs machines from the root file system in the folder `image`, on a bridge. Needs root."""

    stop_limit = 40.0

    def __init__(self, image: Path, bridge: Bridge, unpacked: Path) -> None:
        self._image = image
        self._unpacked = unpacked
        self._unpacking = asyncio.Lock()
        self._bridge = bridge
        self._bridge.up()
        self.gateway, self.subnet = bridge.gateway, bridge.subnet

    def address(self, used: Collection[str]) -> str:
        """Return a free address on the bridge. Raises `OneflowerError`."""
        return self._bridge.address(used)

    async def prepare(self, vm: Vm, folder: Path, disks: Sequence[Disk] = ()) -> Boot:
        """Lay the machine's own layers over the images and plug its NICs in. Raises `OneflowerError`."""
        await self.lay(folder, disks or [Disk(0, self._image)])
        boots = next((disk.number for disk in disks if disk.boots), 0)
        root = folder / _name("root", boots)
        others = [disk.number for disk in disks if disk.number != boots]
        nics = vm.template["NIC"]
        hardware = [nic["MAC"] for nic in (nics if isinstance(nics, list) else [nics])]
        namespace = await asyncio.to_thread(self._bridge.plug, vm.id, hardware)
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=read-only",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            f"--directory={root}", f"--machine=oneflower-{vm.id}",
            f"--network-namespace-path={namespace}", "--capability=CAP_NET_ADMIN",
            f"--bind-ro={folder / 'context'}:/context",
            *(f"--bind-ro={folder / _name('root', other)}:{OTHER_DISKS}/{other}" for other in others),
        ]  # fmt: skip
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", MARK: str(folder)}
        return Boot(command, environment)

    async def lay(self, folder: Path, disks: Sequence[Disk]) -> None:
        """Lay those disks over their images that are not there yet. Raises `OneflowerError`."""
        for disk in disks:
            image = disk.image if disk.image.is_dir() else await self._unpack(disk.image)
            await asyncio.to_thread(_mount, image, folder, disk.number)

    async def _unpack(self, image: Path) -> Path:
        """Return the folder with the files of an image, which is written once for all machines."""
        async with self._unpacking:
            return await asyncio.to_thread(_unpacked, image, self._unpacked)

    async def remove(self, folder: Path, number: int, *, running: bool) -> None:  # noqa: ARG002 - it only loses sight
        """Take a disk from the machine, and remove what is on it. Raises `OneflowerError` and `OSError`."""
        await asyncio.to_thread(_release, folder / _name("root", number))
        for what in ("disk", "work"):
            layer = folder / _name(what, number)
            if layer.exists():
                await asyncio.to_thread(shutil.rmtree, layer)

    def shut_down(self, pid: int, _folder: Path) -> None:
        """Ask the machine's init to shut it down."""
        os.kill(pid, signal.SIGTERM)

    def sweep(self, folder: Path) -> None:
        """End the machine's processes, take it off the bridge, and release its disk."""
        sweep(folder)  # nspawn
        self._bridge.unplug(int(folder.name))
        for root in folder.glob("root*"):
            _release(root)


def _name(what: str, number: int) -> str:
    """Return the name of a part of a disk in the folder of its machine."""
    return f"{what}-{number}" if number else what


def _unpacked(image: Path, folder: Path) -> Path:
    about = image.stat()
    name = hashlib.sha256(f"{image} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:16]
    done, part = folder / name, folder / f"{name}.part"
    if not done.exists():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        unpack(image, part)
        part.rename(done)
    return done / "root"


def _mount(image: Path, folder: Path, number: int) -> None:
    root, layer, work = (folder / _name(what, number) for what in ("root", "disk", "work"))
    for each in (root, layer, work):
        each.mkdir(exist_ok=True)
    layer.chmod(0o755)  # it is the machine's own `/`
    if not root.is_mount():
        layers = f"lowerdir={image},upperdir={layer},workdir={work}"
        run(
            ["mount", "-t", "overlay", "-o", layers, "oneflower", str(root)],
            "lay a machine's disk over the image",
            "The file system of the state folder must allow it: set ONEFLOWER_HOME to a folder on a local disk.",
        )


def _release(root: Path) -> None:
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
