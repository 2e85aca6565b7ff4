"""The folder with data on a machine: what a variable names, or data/ in the appliance."""

from __future__ import annotations

import os
from pathlib import Path

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.volumes import entries


def data_folder(variable: str, given: str, home: Path) -> Path | None:
    """Return the folder that a variable names, or the one in the appliance's folder `home` if anything is in it.

    Raises `OneflowerError` if the variable names a folder that does not exist, or cannot be read.
    """
    folder = Path(given) if given else home / "data"
    if given and not folder.is_dir():
        raise OneflowerError(
            f"{variable}: the folder {folder} does not exist on this machine.",
            f"Mount the data there, or leave {variable} empty.",
            ExitCode.ENVIRONMENT,
        )
    if given and not os.access(folder, os.R_OK | os.X_OK):
        raise OneflowerError(
            f"{variable}: the folder {folder} cannot be read by the agent's user (uid {os.getuid()}).",
            "Give that user the right to read it.",
            ExitCode.ENVIRONMENT,
        )
    return folder if given or (folder.is_dir() and entries(folder)) else None
