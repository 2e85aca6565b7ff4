"""The Debian tools that build an image, and how they are run: with the same environment on every machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from oneflower.prerequisites import PATH, require_packages, require_root
from oneflower.process import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRUB = Path("/usr/lib/grub")

# The commands and files that are needed, and the Debian package that has each.
NEEDED = {
    "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "sfdisk": "fdisk",
    "qemu-img": "qemu-utils", "grub-mkimage": "grub-common", "mkfs.vfat": "dosfstools", "mcopy": "mtools",
    "tar": "tar", "strip": "binutils", "depmod": "kmod", "unshare": "util-linux", "setpriv": "util-linux",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    f"{GRUB}/i386-pc/boot.img": "grub-pc-bin",
    f"{GRUB}/x86_64-efi/moddep.lst": "grub-efi-amd64-bin",
}  # fmt: skip
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")  # what begins like this ends when we are killed
# What begins like this is seen by nobody else, and ends with everything that it started, however it ends.
APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_HINT = "See the lines above, and that there is disk space."


def check_tools() -> None:
    """Raise `OneflowerError` that names the command which installs what is missing here, or if this is not root."""
    require_packages("Building an image", NEEDED)
    require_root("Building an image", "its files belong to root and to users of the image")


def tool(
    command: Sequence[str | Path],
    what: str,
    environment: Mapping[str, str] | None = None,
    *,
    stdin: IO[bytes] | None = None,
    hint: str = _HINT,
) -> str:
    """Run a tool to its end and return what it printed. `what` completes "Cannot ...", `hint` says what to do then."""
    usual = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": os.environ.get("HOME", "/root")}
    proxies = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    return run([*WITH_US, *map(str, command)], what, hint, {**usual, **proxies, **(environment or {})}, stdin=stdin)
