"""What this machine must have before something is started: Debian packages, and root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where Debian's commands are, also those that are not on the PATH of an ordinary user.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def require_packages(purpose: str, provided_by: Mapping[str, str]) -> None:
    """Raise `OneflowerError` with the command that installs what is missing here. `purpose` begins the sentence.

    `provided_by` has the Debian package of each command, or of each file if its path begins with a slash.
    """
    missing = dict.fromkeys(package for name, package in provided_by.items() if not _is_there(name))
    if missing:
        names = list(missing)
        sudo = "sudo " if os.geteuid() else ""
        raise OneflowerError(
            f"{purpose} needs Debian packages that are not installed here: {', '.join(names)}.",
            f"Run: {sudo}apt-get install --no-install-recommends {' '.join(names)}",
            ExitCode.ENVIRONMENT,
        )


def require_root(purpose: str, reason: str) -> None:
    """Raise `OneflowerError` if this is not root. "`purpose` needs root, because `reason`." is what it says."""
    if os.geteuid():
        raise OneflowerError(f"{purpose} needs root, because {reason}.", "Run it with sudo.", ExitCode.ENVIRONMENT)


def _is_there(name: str) -> bool:
    return Path(name).exists() if name.startswith("/") else shutil.which(name, path=PATH) is not None
