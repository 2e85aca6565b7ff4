"""What of an image is Debian: a kernel, systemd, Python, an SSH server, and NVIDIA's driver if it is for a GPU.

It is the same for all variants with a GPU, and for all without.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images import bytecode, modules, nvidia, trim
from oneflower.images.scratch import remove
from oneflower.images.spec import KEYRING, PACKAGES, PYTHON, SUITE
from oneflower.images.tools import APART, tool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    files = (__file__, bytecode.__file__, modules.__file__, *((nvidia.__file__,) if spec.gpu else ()))
    code = [Path(file or "").read_text(encoding="utf-8") for file in files]
    content = [SUITE, PACKAGES, PYTHON, KEYRING, spec.mirror, spec.epoch, spec.gpu, trim.DEBIAN, *code]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def make(spec: ImageSpec, target: Path, scratch: Path) -> None:
    """Write the base as a tar file."""
    root = scratch / "base"
    hooks = {
        "essential": _PREPARE.format(drivers=" ".join(_DRIVERS)),
        "customize": _FINISH.format(packages=" ".join(_NOT_NEEDED)),
    }
    paths = [*(f"path-exclude={path}" for path in _LEFT_OUT), *(f"path-include={path}" for path in _KEPT)]
    try:
        _bootstrap(spec, root, (*PACKAGES, *(nvidia.PACKAGES if spec.gpu else ())), hooks, paths)
        if spec.gpu:

            def install(folder: Path, packages: tuple[str, ...], script: str) -> None:
                _bootstrap(spec, folder, packages, {"customize": script})

            nvidia.add_modules(root, scratch, install, os.cpu_count() or 1)
        tool(["find", root / "dev", "-mindepth", "1", "-delete"], "empty /dev")  # the kernel fills it
        modules.keep(root)
        trim.debian(root)
        bytecode.write(root, [f"usr/lib/python{PYTHON}", "usr/lib/python3/dist-packages"])
        partial = target.with_suffix(".part")
        tool(["tar", "--numeric-owner", "--xattrs", "-C", root, "-cf", partial, "."], "keep the Debian packages")
        partial.rename(target)
    finally:
        remove(root)


def _bootstrap(
    spec: ImageSpec, root: Path, packages: Sequence[str], hooks: Mapping[str, str], paths: Sequence[str] = ()
) -> None:
    """Make a root with Debian packages. `hooks` are scripts of mmdebstrap, `paths` what dpkg leaves out."""
    components = ("main", *(nvidia.COMPONENTS if spec.gpu else ()))
    command = [
        *APART, "mmdebstrap", "--mode=root", "--skip=chroot/mount/sys", "--variant=essential",
        "--format=directory", f"--keyring={KEYRING}", f"--components={','.join(components)}", "--architectures=amd64",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt={option}" for option in ("force-unsafe-io", *paths)),
        *(f"--{name}-hook={script}" for name, script in hooks.items()),
        SUITE, str(root), *sources(spec.mirror, components),
    ]  # fmt: skip
    tool(command, "install the Debian packages", {"SOURCE_DATE_EPOCH": str(spec.epoch)}, hint=_HINT)


def sources(mirror: str, components: Sequence[str] = ("main",)) -> list[str]:
    """Return the lines of sources.list for a mirror."""
    security, parts = mirror.replace("/debian", "/debian-security"), " ".join(components)
    return [
        f"deb {mirror} {SUITE} {parts}",
        f"deb {mirror} {SUITE}-updates {parts}",
        f"deb {security} {SUITE}-security {parts}",
    ]
