"""The QEMU command of a machine: what OpenNebula's driver for KVM makes of a VM template, as far as ours go.

Files are named as seen from the machine's folder.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EMULATOR = "qemu-system-x86_64"
DISK, CD, CONSOLE, MONITOR, UEFI_VARIABLES = "disk.qcow2", "context.iso", "console.log", "monitor", "uefi.fd"
OVMF = Path("/usr/share/OVMF")
CODE, VARIABLES = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"

_HOST = "host-passthrough"
_PLAIN_CPU = "qemu64"  # what a VM gets whose template names no CPU model
_MEMORY = 1024  # MB, likewise
_ONE_DISK = {0: True}


@dataclass(frozen=True)
class Nic:
    """A network card: the interface on the host, which exists, and the hardware address in the machine."""

    tap: str
    hardware: str


@dataclass(frozen=True)
class Hardware:
    """What a machine consists of. `memory` is in MB, `disk_size` in bytes; without one, the disk has the image's."""

    cpu: str = _HOST
    cores: int = 1
    memory: int = _MEMORY
    uefi: bool = False
    chipset: str = "pc"
    disk_size: int | None = None

    @classmethod
    def of(cls, template: Mapping[str, Any]) -> Hardware:
        """Return what a VM template asks for. Raises `OneflowerError` for a value that is not valid."""
        system, disk = _vector(template, "OS"), _vector(template, "DISK")
        return cls(
            cpu=_word("CPU_MODEL", _vector(template, "CPU_MODEL").get("MODEL") or _PLAIN_CPU),
            cores=_number("VCPU", template.get("VCPU") or 1),
            memory=_number("MEMORY", template.get("MEMORY") or _MEMORY),
            uefi=system.get("FIRMWARE", "BIOS").upper() != "BIOS",
            chipset=_word("OS/MACHINE", system.get("MACHINE") or "pc"),
            disk_size=_number("DISK/SIZE", disk["SIZE"]) << 20 if disk.get("SIZE") else None,
        )


def _vector(template: Mapping[str, Any], name: str) -> Mapping[str, str]:
    found = template.get(name) or {}
    return found[0] if isinstance(found, list) else found


def _number(name: str, value: Any) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or not int(text):
        raise _not_valid(name, text, "a positive whole number")
    return int(text)


def _word(name: str, text: str) -> str:
    """Return a name, which must not become more than one option of QEMU."""
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", text):
        raise _not_valid(name, text, "the name of one that QEMU has")
    return text


def _not_valid(name: str, text: str, expected: str) -> OneflowerError:
    return OneflowerError(f"{name} of the VM template is {text!r}; expected {expected}.", "Change the VM template.")


def has_kvm(processors: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> bool:
    """Say whether this machine's processor runs virtual machines. A /dev/kvm that works without it is itself slow."""
    try:
        flags = processors.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return re.search(r"^flags\s*:.*\b(vmx|svm)\b", flags, re.MULTILINE) is not None and os.access(
        device, os.R_OK | os.W_OK
    )


def disk_file(number: int) -> str:
    """Return the name of the file of a disk, by its DISK_ID."""
    return f"disk-{number}.qcow2" if number else DISK


def command(
    hardware: Hardware, nics: Sequence[Nic], *, kvm: bool, cd: bool = True, disks: Mapping[int, bool] = _ONE_DISK
) -> list[str]:
    """Return the command that is the machine. It has a serial line, and no screen.

    `disks` says of each whether the machine boots from it.
    """
    cpu = hardware.cpu
    if cpu == _HOST:
        cpu = "host" if kvm else "max"
    words = [
        EMULATOR, "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", hardware.chipset, "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=256",
        "-cpu", cpu, "-smp", str(hardware.cores), "-m", str(hardware.memory),
        "-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console",
        "-qmp", f"unix:{MONITOR},server=on,wait=off",
    ]  # fmt: skip
    for number, boots in disks.items():
        words += ["-drive", f"if=none,id=drive{number},file={disk_file(number)},format=qcow2,discard=unmap"]
        words += ["-device", f"virtio-blk-pci,id=disk{number},drive=drive{number}{',bootindex=1' if boots else ''}"]
    if hardware.uefi:
        words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={CODE}"]
        words += ["-drive", f"if=pflash,unit=1,format=raw,file={UEFI_VARIABLES}"]
    if cd:
        words += ["-drive", f"if=none,id=context,file={CD},format=raw,readonly=on,media=cdrom"]
        words += ["-device", "ide-cd,drive=context"]
    for index, nic in enumerate(nics):
        words += ["-netdev", f"tap,id=nic{index},ifname={nic.tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev=nic{index},mac={nic.hardware},romfile="]
    return words
