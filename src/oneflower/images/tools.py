"""The Debian tools that build an image, and how they are run: with the same environment on every machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING

from oneflower.process import run
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRUB = Path("/usr/lib/grub")

# The commands that are needed, and the Debian package that has each.
_COMMANDS = {
    "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "sfdisk": "fdisk",
    "qemu-img": "qemu-utils", "grub-mkimage": "grub-common", "mkfs.vfat": "dosfstools", "mcopy": "mtools",
    "tar": "tar", "depmod": "kmod",
}  # fmt: skip
_FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    f"{GRUB}/i386-pc/boot.img": "grub-pc-bin",
    f"{GRUB}/x86_64-efi/moddep.lst": "grub-efi-amd64-bin",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HINT = "See the lines above, and that there is disk space."


def check_tools() -> None:
    """Raise `OneflowerError` that names the command which installs what is missing here, or if this is not root."""
    found = (package for name, package in _COMMANDS.items() if shutil.which(name, path=_PATH) is None)
    missing = list(dict.fromkeys([*found, *(package for path, package in _FILES.items() if not Path(path).exists())]))
    if missing:
        raise OneflowerError(
            f"Building an image needs Debian packages that are not installed here: {', '.join(missing)}.",
            f"Run: sudo apt-get install --no-install-recommends {' '.join(missing)}",
            ExitCode.ENVIRONMENT,
        )
    if os.geteuid() != 0:
        raise OneflowerError(
            "Building an image needs root, because its files belong to root and to users of the image.",
            "Run it with sudo.",
            ExitCode.ENVIRONMENT,
        )


def tool(
    command: Sequence[str | Path],
    what: str,
    environment: Mapping[str, str] | None = None,
    *,
    stdin: IO[bytes] | None = None,
) -> str:
    """Run a tool to its end and return what it printed. `what` completes "Cannot ..."."""
    usual = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": os.environ.get("HOME", "/root")}
    proxies = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    return run([str(word) for word in command], what, _HINT, {**usual, **proxies, **(environment or {})}, stdin=stdin)
