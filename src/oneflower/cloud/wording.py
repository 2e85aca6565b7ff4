"""Where only the wording of another program tells what went wrong: the core's quotas, and `ssh`.

The core answers a full quota with the code of a missing right, and OneFlow repeats its sentence. `ssh` ends with 255
whatever happened. The words choose a hint for a person, and nothing else: if they change, the hint is a general one.
"""

from __future__ import annotations

from enum import Enum, auto


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
