"""Where the context comes from: the CD that OpenNebula attaches, or the folder /context of a container."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.guest.mounted import mounted
from oneflower_appliance.process import call

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/run/one-context")
CONTAINER = Path("/context")
DEVICES = (Path("/dev/disk/by-label/CONTEXT"), Path("/dev/disk/by-label/CDROM"))
FOR_THE_AGENT = ("context.sh", "token.txt")
_READABLE = 0o640
_MOUNT = Path("/run/oneflower/cd")
_PATIENCE = 15


@contextmanager
def found(patience: int = _PATIENCE) -> Iterator[Path]:
    """Yield the folder with the context. Raises `OneflowerError` when there is none or it cannot be read."""
    if (CONTAINER / "context.sh").is_file():
        yield CONTAINER
        return
    device = _device(patience)

    def refused(why: str) -> OneflowerError:
        return _damaged(f"The context CD {device} cannot be mounted: {why}.")

    with mounted(device, _MOUNT, ["-o", "ro"], refused) as folder:
        yield folder


def _device(patience: int) -> Path:
    if not any(device.exists() for device in DEVICES):
        call(["udevadm", "wait", f"--timeout={patience}", str(DEVICES[0])])
    for device in DEVICES:
        if device.exists():
            return device
    if unknown := media():
        raise _damaged(f"The CD in {', '.join(unknown)} has no label CONTEXT, by which a context is known.")
    raise OneflowerError(
        "There is no context: no disk with the label CONTEXT.",
        "Instantiate the VM from a template with a CONTEXT section.",
        ExitCode.ENVIRONMENT,
    )


def media(drives: Path = Path("/sys/class/block")) -> list[str]:
    """Return the CD drives that have something in them."""
    return [f"/dev/{drive.name}" for drive in sorted(drives.glob("sr*")) if int((drive / "size").read_text())]


def _damaged(what: str) -> OneflowerError:
    return OneflowerError(
        what,
        "It may be damaged: power the VM off and on in OpenNebula, which writes it again.",
        ExitCode.ENVIRONMENT,
    )


def hand_over(source: Path, group: int, folder: Path) -> None:
    """Copy what the agent reads, and nobody else may read, to the folder in which one-context keeps its files.

    Raises `OneflowerError` when a file of the context cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # one-context may have made it, for root alone
    for name in FOR_THE_AGENT:
        content = _content(source / name)
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomic(folder / name, content, _READABLE)
            os.chown(folder / name, 0, group)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(f"{path.name} on the context CD cannot be read: {error.strerror}.") from error


def own_context_is_installed() -> bool:
    """Whether OpenNebula's one-context is on this machine. It then does what this would do."""
    return shutil.which("one-contextd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin") is not None
