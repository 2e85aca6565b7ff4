"""What of an image is Debian: a kernel, systemd, Python, an SSH server. It is the same for all variants."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images import bytecode, modules, trim
from oneflower.images.scratch import remove
from oneflower.images.spec import KEYRING, PACKAGES, PYTHON, SUITE
from oneflower.images.tools import APART, tool

if TYPE_CHECKING:
    from oneflower.images.spec import ImageSpec

# Of the documentation the copyright files stay: they are the licences.
_LEFT_OUT = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*",
    "/usr/share/bash-completion/*", "/usr/share/zsh/*", "/lib/udev/hwdb.d/*", "/usr/lib/udev/hwdb.d/*",
)  # fmt: skip
_KEPT = ("/usr/share/doc/*/copyright",)

# The initial RAM disk needs the file system of the root, and the buses on which OpenNebula attaches disks.
_DRIVERS = ("ext4", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "ata_piix", "nvme")

# `usrmerge` comes with the essential packages, converts nothing here, and is the only one that needs all of Perl. What
# is left of Perl serves the installation of packages only.
_NOT_NEEDED = ("usrmerge", "libfile-find-rule-perl", "libnumber-compare-perl", "libtext-glob-perl",
               "perl", "perl-modules-5.36", "libperl5.36", "perl-base")  # fmt: skip

_HINT = "Check that the Debian mirror can be reached and that there is disk space, then try again."

_PREPARE = """set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\\nRESUME=none\\nFSTYPE=ext4\\n' >"$1/etc/initramfs-tools/conf.d/oneflower"
printf '%s\\n' {drivers} >"$1/etc/initramfs-tools/modules"
"""
_FINISH = """set -eu
chroot "$1" dpkg --purge --force-remove-essential --force-depends {packages}
"""


def key(spec: ImageSpec) -> str:
    """Return a name for the content of the base."""
    files = (__file__, bytecode.__file__, modules.__file__)
    code = [Path(file or "").read_text(encoding="utf-8") for file in files]
    content = [SUITE, PACKAGES, PYTHON, KEYRING, spec.mirror, spec.epoch, trim.DEBIAN, *code]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def make(spec: ImageSpec, target: Path, scratch: Path) -> None:
    """Write the base as a tar file."""
    root = scratch / "base"
    hooks = {
        "essential": _PREPARE.format(drivers=" ".join(_DRIVERS)),
        "customize": _FINISH.format(packages=" ".join(_NOT_NEEDED)),
    }
    paths = [*(f"path-exclude={path}" for path in _LEFT_OUT), *(f"path-include={path}" for path in _KEPT)]
    command = [
        *APART, "mmdebstrap", "--mode=root", "--skip=chroot/mount/sys", "--variant=essential",
        "--format=directory", f"--keyring={KEYRING}", "--components=main", "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in ("force-unsafe-io", *paths)),
        *(f"--{name}-hook={script}" for name, script in hooks.items()),
        SUITE, str(root), *sources(spec.mirror),
    ]  # fmt: skip
    try:
        tool(command, "install the Debian packages", {"SOURCE_DATE_EPOCH": str(spec.epoch)}, hint=_HINT)
        tool(["find", root / "dev", "-mindepth", "1", "-delete"], "empty /dev")  # the kernel fills it
        modules.keep(root)
        trim.debian(root)
        bytecode.write(root, [f"usr/lib/python{PYTHON}", "usr/lib/python3/dist-packages"])
        partial = target.with_suffix(".part")
        tool(["tar", "--numeric-owner", "--xattrs", "-C", root, "-cf", partial, "."], "keep the Debian packages")
        partial.rename(target)
    finally:
        remove(root)


def sources(mirror: str) -> list[str]:
    """Return the lines of sources.list for a mirror."""
    security = mirror.replace("/debian", "/debian-security")
    return [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {security} {SUITE}-security main",
    ]
