"""What a SuperNode would meet if it joined from this machine: the appliance's own check, before one is deployed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower import process
from oneflower.opennebula.text import context_sh
from oneflower_appliance.checks import Check, unpack
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHAT, _HINT = "look at what a SuperNode would meet", "Look at the message above."


def check_from_here(python: Path, appliance: Path | None, settings: Mapping[str, str], home: Path) -> tuple[Check, ...]:
    """Return what a SuperNode with `settings` finds when it looks from this machine, whose state would be in `home`.

    `python` runs the check, with the appliance's code in the folder `appliance`, or what it has installed itself.
    Raises `OneflowerError` for settings that are not valid. Nothing is deployed, and nobody is asked to admit anybody.
    """
    environment = {**os.environ, **({"PYTHONPATH": str(appliance)} if appliance else {})}
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "context.sh", context_sh(settings))  # holds secrets: for this user only
        command = [str(python), "-m", "oneflower_appliance.agent", "check", "--json", "--context", folder]
        accepted = (ExitCode.OK, ExitCode.ENVIRONMENT)
        said = process.run([*command, "--home", str(home)], _WHAT, _HINT, environment, accepts=accepted)
    found = unpack(said)
    if not found:
        raise OneflowerError(
            f"Cannot {_WHAT}: the check printed nothing that can be read.", _HINT, ExitCode.ENVIRONMENT
        )
    return found
