"""Lets the agent confine tasks where the policy of the site says so: its unit otherwise forbids namespaces and mounts.

The unit is changed for this boot only, and only where it is needed: without it an app can do less to the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.process import call
from oneflower_appliance.site_policy import PATH, SitePolicy, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANGE = Path("/usr/lib/oneflower/confinement.conf")
UNIT = Path("/run/systemd/system/oneflower-agent.service.d")


def confines(context: Mapping[str, str], path: Path = Path(PATH)) -> bool:
    """Whether the policy of this machine confines tasks. Of one that is not valid the agent says what is wrong."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else read_text(context.get("FL_SITE_POLICY", ""))
        return SitePolicy.parse(text).task is not None
    except (OneflowerError, OSError, ValueError):
        return False


def allow(*, wanted: bool, change: Path = CHANGE, unit: Path = UNIT) -> None:
    """Change the agent's unit so that it can confine tasks, or take that back. Raises `OneflowerError` or `OSError`."""
    file = unit / change.name
    if wanted:
        write_atomic(file, change.read_bytes(), SHARED)
        unit.chmod(0o755)
    elif file.exists():
        file.unlink()
    else:
        return
    call(["systemctl", "daemon-reload"])
