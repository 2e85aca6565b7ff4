"""The disk of an image: GPT, boot loaders for BIOS and UEFI, one ext4 file system. No mount, no loop device."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images.tools import GRUB, tool
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.previous_disk import ROOT_PARTITION  # by which systemd-repart knows what to grow

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

SECTOR = 512
MEBIBYTE = 1 << 20
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

_COMMON = ("part_gpt", "ext2", "search_fs_uuid", "normal", "linux", "echo", "test", "serial", "terminal", "configfile")
_MODULES = {"i386-pc": ("biosdisk", *_COMMON), "x86_64-efi": ("efi_gop", "efi_uga", "all_video", *_COMMON)}

# boot.img is told where the rest of GRUB begins, and the first sector of the rest where its second is.
_KERNEL = (
    "rw", "rootflags=noatime,errors=remount-ro", "console=tty0", "console=ttyS0,115200", "loglevel=4",
    "systemd.show_status=yes", "fsck.repair=yes", "panic=30",
)  # fmt: skip
_CLUSTER = "1M"  # larger pieces compress better, and take longer to read
_ROOT_INODE, _FIRST_INODE = 2, 11
_BOOT_CODE, _CORE_SECTOR_AT, _SECOND_SECTOR_AT = 440, 0x5C, 0x1F4


@dataclass(frozen=True)
class Partition:
    """Where a partition is, in sectors."""

    name: str
    start: int
    size: int
    type: str

    @property
    def offset(self) -> int:
        """Where it begins, in bytes."""
        return self.start * SECTOR


def layout(size: int) -> tuple[Partition, Partition, Partition]:
    """Return the partitions of a disk of `size` bytes: GRUB for BIOS, the EFI system partition, the root."""
    mebi = MEBIBYTE // SECTOR
    root = 18 * mebi
    end = size // SECTOR - mebi
    return (
        Partition("bios", mebi, mebi, _BIOS_BOOT),
        Partition("esp", 2 * mebi, 16 * mebi, _ESP),
        Partition("root", root, end - root, ROOT_PARTITION),
    )


def table(size: int, identify: Callable[[str], uuid.UUID]) -> str:
    """Return the partition table as sfdisk reads it."""
    lines = ["label: gpt", f"label-id: {identify('disk')}", "unit: sectors", ""]
    lines += [
        f'start={part.start}, size={part.size}, type={part.type}, uuid={identify(part.name)}, name="{part.name}"'
        for part in layout(size)
    ]
    return "\n".join(lines) + "\n"


def grub_settings(filesystem: uuid.UUID) -> str:
    """Return grub.cfg. The kernel tells what it does on the screen and, last and so above all, on the serial line."""
    return f"""set timeout=0
if serial --unit=0 --speed=115200; then
    terminal_output console serial
fi
echo "oneflower: loading the kernel"
linux /boot/vmlinuz root=UUID={filesystem} {" ".join(_KERNEL)}
initrd /boot/initrd.img
boot
"""


def make_filesystem(root: Path, disk: Path, size: int, identify: Callable[[str], uuid.UUID], epoch: int) -> None:
    """Write the folder `root` as a file system into its partition of `disk`. The same content gives the same bytes."""
    part = layout(size)[-1]
    settings = Path(__file__).parent / "mke2fs.conf"
    features = (
        f"offset={part.offset},hash_seed={identify('hash')},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    )
    tool(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "oneflower", "-m", "1", "-U", str(identify("filesystem")),
         "-E", features, "-d", root, disk, f"{part.size // 2}k"],
        "write the file system",
        {"MKE2FS_CONFIG": str(settings), "E2FSPROGS_FAKE_TIME": str(epoch)},
    )  # fmt: skip
    _set_times(disk, part, epoch)


def _set_times(disk: Path, part: Partition, epoch: int) -> None:
    """Give all files the same dates of access and change, which nobody can choose where they are copied from."""
    where, dates = f"{disk}?offset={part.offset}", {"E2FSPROGS_FAKE_TIME": str(epoch)}
    told = tool(["debugfs", "-R", "show_super_stats -h", where], "read the file system", dates)
    inodes, free = (int(_number(told, name)) for name in ("Inode count", "Free inodes"))
    # What is copied into a new file system takes inodes in order, without gaps.
    used = (_ROOT_INODE, *range(_FIRST_INODE, inodes - free + 1))
    script = disk.with_suffix(".debugfs")
    lines = (f"sif <{inode}> {field} @{epoch}\n" for inode in used for field in ("atime", "ctime"))
    script.write_text("".join(lines), encoding="ascii")
    tool(["debugfs", "-w", "-f", script, where], "set the dates of files", dates)
    script.unlink()


def _number(text: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(name))


def partition(disk: Path, size: int, identify: Callable[[str], uuid.UUID]) -> None:
    """Make `disk` an empty disk of `size` bytes with our partitions."""
    with disk.open("wb") as stream:
        stream.truncate(size)
    script = disk.with_suffix(".sfdisk")
    script.write_text(table(size, identify), encoding="ascii")
    with script.open("rb") as stream:
        tool(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], "partition the disk", stdin=stream)
    script.unlink()


def write_boot_loaders(disk: Path, size: int, identify: Callable[[str], uuid.UUID], epoch: int) -> None:
    """Put GRUB where a BIOS looks for it, and where UEFI does."""
    bios, esp, _ = layout(size)
    early = disk.with_suffix(".grub")
    early.write_text(
        f"search.fs_uuid {identify('filesystem')} root\nset prefix=($root)/boot/grub\nnormal\n", encoding="ascii"
    )
    core, loader = disk.with_suffix(".core"), disk.with_suffix(".efi")
    for target, output in (("i386-pc", core), ("x86_64-efi", loader)):
        options = ["-O", target, "-p", "/boot/grub", "-c", str(early), "-o", str(output)]
        tool(["grub-mkimage", *options, *_MODULES[target]], "make the boot loader")
    with disk.open("r+b") as stream:
        stream.write(boot_sector((GRUB / "i386-pc/boot.img").read_bytes(), bios.start))
        stream.seek(bios.offset)
        stream.write(core_image(core.read_bytes(), bios))
    _write_esp(disk, esp, loader, epoch)
    for path in (early, core, loader):
        path.unlink()


def boot_sector(code: bytes, core: int) -> bytes:
    """Return the code of the first sector, which loads the sector `core`. The partition table after it stays."""
    code = code[:_BOOT_CODE]
    return code[:_CORE_SECTOR_AT] + struct.pack("<Q", core) + code[_CORE_SECTOR_AT + 8 :]


def core_image(code: bytes, part: Partition) -> bytes:
    """Return GRUB's core as it lies in its partition: its first sector knows where the others are."""
    if len(code) > part.size * SECTOR:
        raise OneflowerError(f"GRUB's core has {len(code)} bytes, more than its partition.", "", ExitCode.INTERNAL)
    return code[:_SECOND_SECTOR_AT] + struct.pack("<Q", part.start + 1) + code[_SECOND_SECTOR_AT + 8 :]


def _write_esp(disk: Path, part: Partition, loader: Path, epoch: int) -> None:
    image, dates = disk.with_suffix(".esp"), {"SOURCE_DATE_EPOCH": str(epoch)}
    with image.open("wb") as stream:
        stream.truncate(part.size * SECTOR)
    what = "write the EFI system partition"
    tool(["mkfs.vfat", "-F", "16", "-i", "4F4E4546", "-n", "ESP", "--invariant", image], what, dates)
    tool(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"], what, dates)
    os.utime(loader, (epoch, epoch))
    tool(["mcopy", "-m", "-i", image, loader, "::/EFI/BOOT/BOOTX64.EFI"], what, dates)
    with disk.open("r+b") as stream:
        stream.seek(part.offset)
        stream.write(image.read_bytes())
    image.unlink()


def compress(disk: Path, target: Path) -> None:
    """Write `disk` as a compressed qcow2."""
    partial = target.with_suffix(".part")
    options = f"compression_type=zstd,cluster_size={_CLUSTER}"
    try:
        tool(
            ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, disk, partial],
            "compress the image",
        )
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
