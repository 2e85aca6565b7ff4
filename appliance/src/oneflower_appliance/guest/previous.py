"""Takes over the state of the disk from which a machine booted before, when it boots from another image.

The context asks for it (`previous_disk.VARIABLE`). It is done once, before anything of this machine has started: the
state is copied beside its place and renamed, so a power cut leaves nothing half done. The disk before is mounted
read-only, and nothing on it is followed or run. If anything is not as it should be, the machine does not start with a
new state: it says why.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, free_bytes, write_atomic
from oneflower_appliance.guest.mounted import mounted
from oneflower_appliance.previous_disk import CONTAINER, ROOT_PARTITION, VARIABLE
from oneflower_appliance.process import call
from oneflower_appliance.volumes import HOME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOUNT = Path("/run/oneflower/previous")
_SETTLE = 15  # seconds for the kernel to find the disks
_RESERVE = 64 << 20  # bytes that must be left afterwards


@dataclass(frozen=True)
class Place:
    """Where the state of this machine is. `owner` is the id of the agent's user and group."""

    owner: int
    home: Path = HOME
    keys: Path = Path("/etc/ssh")

    @property
    def done(self) -> Path:
        """There once the state was taken over."""
        return self.home.with_name(f"{self.home.name}.taken-over")

    @property
    def begun(self) -> Path:
        """There from the beginning until it was. What the agent makes meanwhile is no state."""
        return self.home.with_name(f"{self.home.name}.taking-over")

    @property
    def part(self) -> Path:
        """The copy until it is whole."""
        return self.home.with_name(f"{self.home.name}.part")


def take_over(context: Mapping[str, str], place: Place) -> str:
    """Take over the state of the disk before if the context says so and it was not done yet. Returns what was done.

    Raises `OneflowerError` or `OSError`.
    """
    if context.get(VARIABLE, "").strip().upper() != "YES" or place.done.exists():
        return ""
    if place.home.exists() and not place.begun.exists():
        raise _refused("this disk has a state of its own, which is not replaced. Did the machine boot the wrong disk?")
    with _previous() as root:
        source = _inside(root, "var/lib/oneflower")
        keys = _keys(_inside(root, "etc/ssh"))
        size = _size(source)
        room = free_bytes(place.home.parent)
        if size + _RESERVE > room:
            raise _refused(
                f"the state has {size >> 20} MB, and the new disk has room for {max(0, room) >> 20} MB. Give it more."
            )
        _write(place.begun, "")
        shutil.rmtree(place.part, ignore_errors=True)
        _copy(source, place.part, place.owner)
        for name, content in keys.items():
            write_atomic(place.keys / name, content, SHARED if name.endswith(".pub") else 0o600)
    os.sync()
    if place.home.exists():
        shutil.rmtree(place.home)
    place.part.rename(place.home)
    _write(place.done, "")
    place.begun.unlink()
    os.sync()
    return f"the state of the disk before was taken over: {size >> 20} MB, {len(keys)} host keys"


def _write(path: Path, text: str) -> None:
    write_atomic(path, text, SHARED)


@contextmanager
def _previous() -> Iterator[Path]:
    """Yield the root of the disk before, read-only. Raises `OneflowerError` unless there is exactly one."""
    if CONTAINER.is_dir():
        yield _only([str(path) for path in sorted(CONTAINER.iterdir())])
        return
    call(["udevadm", "settle", f"--timeout={_SETTLE}"])
    partition = _only(partitions())

    def refused(why: str) -> OneflowerError:
        return _refused(f"the disk before ({partition}) cannot be mounted: {why}.")

    with mounted(partition, _MOUNT, ["-t", "ext4", "-o", "ro,nosuid,nodev,noexec"], refused) as root:
        yield root


def _only(found: list[str]) -> Path:
    if not found:
        raise _refused(
            "no other disk with a root of an image is attached. Attach it, and power the VM off and on. Or set "
            f"{VARIABLE} to NO in its CONTEXT, to begin with an empty state."
        )
    if len(found) > 1:
        raise _refused(f"{len(found)} other disks have a root of an image ({', '.join(found)}): leave one attached.")
    return Path(found[0])


def partitions(system: Path = Path("/sys"), device: int | None = None) -> list[str]:
    """Return the partitions of other disks that have the type of our root. `device` is that of this machine's root."""
    number = Path("/").stat().st_dev if device is None else device
    own = (system / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve().parent
    found, same = [], _about(f"/dev/block/{os.major(number)}:{os.minor(number)}").get("UUID", "")
    for entry in sorted((system / "class/block").iterdir()):
        if not (entry / "partition").exists() or entry.resolve().parent == own:
            continue
        about = _about(f"/dev/{entry.name}")
        if about.get("PART_ENTRY_TYPE", "").upper() != ROOT_PARTITION:
            continue
        if same and about.get("UUID") == same:
            raise _refused("the other disk is of the very image that booted: nobody can tell which of the two it was.")
        found.append(f"/dev/{entry.name}")
    return found


def _about(device: str) -> dict[str, str]:
    _, said = call(["blkid", "-p", "-o", "export", device])
    return {name: value for name, _, value in (line.partition("=") for line in said.splitlines())}


def _inside(root: Path, path: str) -> Path:
    """Return a folder of the disk before, none of whose parts is a link. Raises `OneflowerError`."""
    where = root
    for part in path.split("/"):
        where /= part
        if not os.path.lexists(where) or not stat.S_ISDIR(where.lstat().st_mode):
            raise _refused(f"/{where.relative_to(root)} of the disk before is not a folder.")
    return where


def _keys(folder: Path) -> dict[str, bytes]:
    """Return the SSH host keys by the names of their files."""
    found = sorted(folder.glob("ssh_host_*_key*"))
    return {path.name: path.read_bytes() for path in found if stat.S_ISREG(path.lstat().st_mode)}


def _size(folder: Path) -> int:
    inside = [Path(path, name) for path, _, names in os.walk(folder, onerror=_raise) for name in names]
    return sum(path.lstat().st_size for path in inside)


def _raise(error: OSError) -> None:
    raise error


def _copy(source: Path, target: Path, owner: int) -> None:
    """Copy a folder with owners, modes and dates. Links stay what they are; what is neither is left out."""
    about = source.lstat()
    target.mkdir(mode=0o700)
    for entry in sorted(source.iterdir()):
        kind, there = entry.lstat(), target / entry.name
        if stat.S_ISDIR(kind.st_mode):
            _copy(entry, there, owner)
        elif stat.S_ISLNK(kind.st_mode):
            there.symlink_to(entry.readlink())
            os.lchown(there, owner, owner)
        elif stat.S_ISREG(kind.st_mode):
            shutil.copyfile(entry, there, follow_symlinks=False)
            _set_about(there, kind, owner)
    _set_about(target, about, owner)


def _set_about(path: Path, about: os.stat_result, owner: int) -> None:
    """Give a copy the owner, the mode and the dates. Only root's and the agent's own owners are known here."""
    os.chown(path, *(number if number in (0, owner) else owner for number in (about.st_uid, about.st_gid)))
    path.chmod(about.st_mode & 0o777)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def _refused(why: str) -> OneflowerError:
    return OneflowerError(f"The state of the disk before cannot be taken over: {why}", "", ExitCode.ENVIRONMENT)
