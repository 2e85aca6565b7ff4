"""START_SCRIPT and INIT_SCRIPTS: what a template's author wants done at each boot, as root, before the agent starts."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.process import call

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXECUTABLE = 0o700
PLACE = Path("/var/lib/one-context")  # where one-context has them; nothing may be executed in /run
_USUAL = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def scripts(context: Mapping[str, str], source: Path) -> dict[str, bytes]:
    """Return the scripts by name, in their order. `source` is the folder of the context.

    INIT_SCRIPTS name files there; without it, init.sh is one if it is there. START_SCRIPT_BASE64 goes before
    START_SCRIPT. Raises `OneflowerError` for what is not valid.
    """
    found = {}
    if text := _start_script(context):
        found["START_SCRIPT"] = text
    named = context.get("INIT_SCRIPTS", "").split()
    for name in named or ["init.sh"]:
        file = source / Path(name).name
        if file.is_file():
            found[file.name] = file.read_bytes()
        elif named:
            raise OneflowerError(
                f"INIT_SCRIPTS names {name}, which is not among the files of the context.",
                "Add it to FILES_DS in the CONTEXT section of the VM template.",
            )
    return found


def _start_script(context: Mapping[str, str]) -> bytes:
    coded = "".join(context.get("START_SCRIPT_BASE64", "").split())
    if not coded:
        return context.get("START_SCRIPT", "").encode() if context.get("START_SCRIPT", "").strip() else b""
    try:
        return base64.b64decode(coded, validate=True)
    except binascii.Error as error:
        raise OneflowerError(
            "START_SCRIPT_BASE64 is not valid base64: it is not run.", "Encode the script with `base64 -w0`."
        ) from error


def run(name: str, script: bytes, context: Mapping[str, str], source: Path, place: Path = PLACE) -> int:
    """Run a script in `source`, with the whole context in its environment, and return its exit status.

    Its output is the journal's. A script that does not say what runs it is run by bash, as one-context does.
    """
    path = place / name
    write_atomic(path, script, _EXECUTABLE)
    command = [str(path)] if script.startswith(b"#!") else ["/bin/bash", str(path)]
    status, _ = call(["/usr/bin/env", "-C", str(source), *command], {**_USUAL, **context}, capture=False)
    return status
