"""Our own files in an image: `overlay/` as it lies there, and what follows from the image around it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images.disk import grub_settings
from oneflower.images.laying import lay_folder
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oneflower.images.spec import ImageSpec

OVERLAY = Path(__file__).parent / "overlay"
OVERLAY_GPU = Path(__file__).parent / "overlay_gpu"  # laid over it where there is NVIDIA's driver
EXECUTABLE = ("usr/lib/oneflower/ready",)
USER = "oneflower"
USER_ID = 900

# Units by the target that wants them; those of Debian that are not here are not enabled.
ENABLED = {
    "multi-user.target": (
        "oneflower-agent.service", "oneflower-host-keys.service", "ssh.service",
        "systemd-networkd.service", "remote-fs.target",
    ),
    "sysinit.target": (
        "oneflower-context.service", "oneflower-growfs.service",
        "oneflower-progress@console.service", "oneflower-progress@tty1.service", "systemd-timesyncd.service",
        "systemd-resolved.service",
    ),
    "sockets.target": ("systemd-networkd.socket",),
    "network-online.target": ("systemd-networkd-wait-online.service",),
    "timers.target": ("fstrim.timer",),
}  # fmt: skip
ENABLED_GPU = {"multi-user.target": ("oneflower-gpu.service",)}
# Nobody can log in at a console, for no account has a password; the keys of the host are ours to make. The kernel's
# module for other binary formats is not in an image.
_MASKED = (
    "getty@tty1.service", "serial-getty@ttyS0.service", "console-getty.service", "e2scrub_reap.service",
    "e2scrub_all.timer", "dpkg-db-backup.timer", "systemd-pstore.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
)  # fmt: skip
_VARIABLES = 'PATH="/opt/oneflower/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n'


def lay(spec: ImageSpec, root: Path) -> None:
    """Lay our files over the packages and enable our units."""
    lay_folder(OVERLAY, root, EXECUTABLE)
    _enable(root)
    if spec.gpu:
        lay_folder(OVERLAY_GPU, root)
        _want(root, ENABLED_GPU)
    _add_user(root)
    filesystem = spec.identifier("filesystem")
    _write(root / "etc/fstab", "# The root is mounted as the kernel's command line says: /boot/grub/grub.cfg\n")
    _write(root / "boot/grub/grub.cfg", grub_settings(filesystem))
    for name in ("vmlinuz", "initrd.img"):
        latest = root / "boot" / name
        latest.unlink(missing_ok=True)
        latest.symlink_to(_only(root / "boot", f"{name}-*").name)
    _write(root / "etc/hostname", "oneflower\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    _write(root / "etc/machine-id", "")
    _write(root / "etc/environment", _VARIABLES)
    _write(root / "etc/motd", "A machine of a oneflower federation. `oneflower-agent status` says how it is.\n")
    _write(root / "usr/lib/clock-epoch", "")  # no clock of a machine starts before the image was made
    for name in ("var/log/journal", "srv"):
        (root / name).mkdir(exist_ok=True)
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()


def set_dates(root: Path, epoch: int) -> None:
    """Give all files of an image one date."""
    for folder, folders, names in os.walk(root, topdown=False):
        for name in (*names, *folders):
            os.utime(Path(folder, name), (epoch, epoch), follow_symlinks=False)
    os.utime(root, (epoch, epoch))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise OneflowerError(
            f"The Debian packages brought {len(found)} files {pattern} instead of one.",
            "Build with --no-cache.",
            ExitCode.ENVIRONMENT,
        )
    return found[0]


def _enable(root: Path) -> None:
    settings = root / "etc/systemd/system"
    for folder in settings.glob("*.wants"):
        shutil.rmtree(folder)
    _want(root, ENABLED)
    for unit in _MASKED:
        (settings / unit).unlink(missing_ok=True)
        (settings / unit).symlink_to("/dev/null")


def _want(root: Path, enabled: Mapping[str, Sequence[str]]) -> None:
    for target, units in enabled.items():
        folder = root / "etc/systemd/system" / f"{target}.wants"
        folder.mkdir(exist_ok=True)
        for unit in units:
            name, at, rest = unit.partition("@")
            file = f"{name}@.{rest.rpartition('.')[2]}" if at else unit  # an instance is a link to its template
            (folder / unit).symlink_to(f"/lib/systemd/system/{file}")


def _add_user(root: Path) -> None:
    lines = {
        "passwd": f"{USER}:x:{USER_ID}:{USER_ID}:oneflower:/var/lib/oneflower:/usr/sbin/nologin",
        "shadow": f"{USER}:!*:20454::::::",
        "group": f"{USER}:x:{USER_ID}:",
        "gshadow": f"{USER}:!::",
    }
    for name, line in lines.items():
        path = root / "etc" / name
        path.write_text(f"{path.read_text(encoding='utf-8').rstrip()}\n{line}\n", encoding="utf-8")
        for backup in (root / "etc").glob(f"{name}-"):
            backup.unlink()
