"""Where only the wording of another program tells something: the core's quotas, `ssh`, `flwr`, and the log of a run.

The core answers a full quota with the code of a missing right, and OneFlow repeats its sentence. `ssh` ends with 255
whatever happened. Flower's log has its own lines and what the app prints in one text. The words choose what a person is
shown, and nothing else: if they change, the hint is a general one, or more lines are shown.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_COLOUR = r"(\x1b\[\d+m)?"
_LEVEL = re.compile(rf"{_COLOUR}(DEBUG|INFO|WARNING|ERROR|CRITICAL) ([\d-]+ [\d:,]+)?{_COLOUR}:( |$)")
_INSTALLED = re.compile(r"Successfully installed \S+ to /\S+\.$")  # what Flower prints before it starts an app


class SshFailure(Enum):
    """Why `ssh` did not log in."""

    HOST_KEY = auto()
    LOGIN = auto()
    OTHER = auto()


def hint_of_refusal(text: str) -> str:
    """Return what to do about OpenNebula's refusal if its words say more than its code; otherwise nothing."""
    return "Ask the operator for a larger quota, or deploy fewer SuperNodes." if "quota" in text.lower() else ""


def ssh_failure(output: str) -> SshFailure:
    """Return what the output of OpenSSH's `ssh` means."""
    if "Host key verification failed" in output or "REMOTE HOST IDENTIFICATION" in output:
        return SshFailure.HOST_KEY
    return SshFailure.LOGIN if "Permission denied" in output else SshFailure.OTHER


def is_of_flowers_log(line: str) -> bool:
    """Return whether a line begins as those of Flower's log do, with its level, or is what Flower itself prints."""
    return (_LEVEL.match(line) or _INSTALLED.match(line)) is not None


def flowers_error(output: str) -> str:
    """Return the reason in the output of a command of Flower's that failed, which frames it with lines."""
    framed = [line.strip("│ ") for line in output.splitlines() if line.startswith("│")]
    return " ".join(framed) or output.strip()


def begins_traceback(line: str) -> bool:
    """Return whether a line is the first one of a traceback of Python."""
    return line.rstrip() == "Traceback (most recent call last):"
