"""START_SCRIPT: what the template's author wants to be done at each boot, as root, before the agent starts."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.files import write_atomic
from oneflower_appliance.process import call

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXECUTABLE = 0o700
PLACE = Path("/run/oneflower/start-script")


def wanted(context: Mapping[str, str]) -> bool:
    """Say whether there is one."""
    return bool(text(context).strip())


def text(context: Mapping[str, str]) -> str:
    """Return the script. START_SCRIPT_BASE64 goes before START_SCRIPT; what is not valid base64 counts as nothing."""
    coded = context.get("START_SCRIPT_BASE64", "").strip()
    if not coded:
        return context.get("START_SCRIPT", "")
    try:
        return base64.b64decode(coded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def run(context: Mapping[str, str], place: Path = PLACE) -> int:
    """Run it with the whole context in its environment, and return its exit status. Its output is the journal's."""
    script = text(context)
    write_atomic(place, script, _EXECUTABLE)
    command = [str(place)] if script.startswith("#!") else ["/bin/sh", str(place)]
    usual = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    status, _ = call(command, {**usual, **context}, capture=False)
    return status
