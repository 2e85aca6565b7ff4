"""Building as an ordinary user: as root of a user namespace, where the files of an image can have their owners."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from oneflower.images.tools import NEEDED
from oneflower.prerequisites import PATH, require_packages
from oneflower.process import become, run
from oneflower_appliance.errors import ExitCode, OneflowerError

_PURPOSE = "Building an image as an ordinary user"
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--map-auto", "--")
_IDS = 65536  # users and groups of an image, of which the last is nobody's
_IDS_OF = (Path("/etc/subuid"), Path("/etc/subgid"))
_RANGE = f"100000-{100000 + _IDS - 1}"
_WITH_SUDO = "Run it with sudo."


def become_root() -> None:
    """Return if this is root. Otherwise start this command again, as root of a user namespace.

    Raises `OneflowerError` where that is not possible.
    """
    if os.geteuid() == 0:
        return
    require_packages(_PURPOSE, {**NEEDED, "newuidmap": "uidmap"})
    name = pwd.getpwuid(os.geteuid()).pw_name
    for file in _IDS_OF:
        if not _has_ids(file, name):
            raise OneflowerError(
                f"{_PURPOSE} needs {_IDS} ids for the files of the image, and {file} gives {name} fewer.",
                f"Run it with sudo, or first: sudo usermod --add-subuids {_RANGE} --add-subgids {_RANGE} {name}",
                ExitCode.ENVIRONMENT,
            )
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{PATH}"
    run([*_NAMESPACE, "true"], "enter a user namespace, which this machine does not allow", _WITH_SUDO)
    become([*_NAMESPACE, sys.executable, *sys.orig_argv[1:]])


def _has_ids(file: Path, name: str) -> bool:
    """Return whether a file like /etc/subuid gives a user enough ids."""
    try:
        entries = [line.split(":") for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    mine = (entry for entry in entries if len(entry) == 3 and entry[0] in (name, str(os.geteuid())))
    return any(entry[2].isdigit() and int(entry[2]) >= _IDS for entry in mine)
