"""The appliance's own package, as it is installed here: its code, its version and its commands."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import oneflower_appliance
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

SOURCE = Path(oneflower_appliance.__file__).parent
_NAME = "oneflower-appliance"


def installed() -> Distribution:
    """Return what is known of the package. Raises `OneflowerError` if pyproject.toml of a checkout is newer."""
    found = distribution(_NAME)
    declaration = SOURCE.parent.parent / "pyproject.toml"
    if declaration.is_file():
        declared = tomllib.loads(declaration.read_text(encoding="utf-8"))["project"]
        commands = {point.name: point.value for point in found.entry_points if point.group == "console_scripts"}
        if (found.version, commands) != (declared["version"], declared["scripts"]):
            raise OneflowerError(
                f"{declaration} was changed after the appliance was installed here, so an image would lack the change.",
                "Run: scripts/uv sync --frozen",
                ExitCode.ENVIRONMENT,
            )
    return found
