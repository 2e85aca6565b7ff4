"""Which features are off on a machine, because its release of Flower lacks a name that they need.

Flower's processes find it out and report it; the agent reads it. A report is a file in a folder that the agent names in
the environment: its name is that of the feature, its content the line that says what is off and why.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

FOLDER_VARIABLE = "ONEFLOWER_FEATURES_OFF"


def report(feature: str, line: str) -> bool:
    """Report to the agent, if there is one, that a feature is off. Returns whether no process has done so before."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return True
    path = Path(folder) / feature
    with suppress(OneflowerError, OSError):
        if path.exists():
            return False
        write_atomic(path, f"{line}\n")
    return True


def reported(folder: Path) -> list[str]:
    """Return the lines that were reported, in the order of the features' names."""
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in _reports(folder)]


def clear(folder: Path) -> None:
    """Forget what earlier processes reported."""
    for path in _reports(folder):
        path.unlink()


def _reports(folder: Path) -> list[Path]:
    # A file that is being written has another kind of name.
    return sorted(path for path in folder.glob("*") if path.name.isidentifier() and path.is_file())
