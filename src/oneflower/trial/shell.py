"""Commands on the machines of a trial, as root, over SSH."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from oneflower.process import run

if TYPE_CHECKING:
    from pathlib import Path


def ssh(ip: str, state: Path, *command: str, stdin: IO[bytes] | None = None) -> str:
    """Run a command as root on a machine, and return what it prints.

    The machine's host key is not checked: it is ours, in a network of ours.
    """
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}", "LogLevel=ERROR")
    flags = [word for option in options for word in ("-o", option)]
    words = ["ssh", *flags, "-i", str(state / "key"), f"root@{ip}", *command]
    return run(words, f"run a command on {ip}", "See its log.", stdin=stdin)
