r"""Reads context.sh, OpenNebula's description of a virtual machine, without executing it.

OpenNebula writes one `KEY='value'` per context entry, keys in alphabetical order, always single-quoted; an embedded
quote is written as `'\''` and newlines stay raw inside the quotes. Nothing else is accepted: a file that only a shell
could read is refused, with the line in question.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from pathlib import Path

_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ASSIGNMENT = re.compile(
    r"""(?:export[ \t]+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>(?:'[^']*'|\\')*)[ \t]*(?:\n|\Z)"""
)
_PIECE = re.compile(r"'([^']*)'|\\(')")
FAILED = "context.failed"  # beside context.sh where the guest could not get it: why


def parse_context(text: str) -> dict[str, str]:
    """Return the entries of a context.sh. Raises `OneflowerError` naming the first line that is not an assignment."""
    entries: dict[str, str] = {}
    position = 0
    text = text.replace("\r\n", "\n")
    while position < len(text):
        if (blank := _BLANK.match(text, position)) and blank.end() > position:
            position = blank.end()
            continue
        assignment = _ASSIGNMENT.match(text, position)
        if assignment is None:
            line = text.count("\n", 0, position) + 1
            raise OneflowerError(
                f"context.sh is malformed at line {line}: not an assignment of the form KEY='value'.",
                "Detach and attach the context, or instantiate the VM again, so that OpenNebula writes it again.",
                ExitCode.INVALID_INPUT,
            )
        pieces = _PIECE.findall(assignment["value"])
        entries[assignment["key"]] = "".join(quoted or bare for quoted, bare in pieces)
        position = assignment.end()
    return entries


def read_context(folder: Path) -> dict[str, str]:
    """Parse `folder`/context.sh. Raises `OneflowerError` when it is missing, unreadable or malformed."""
    path = folder / "context.sh"
    try:
        return parse_context(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        if reason := _reason(folder):
            raise OneflowerError(reason, "", ExitCode.ENVIRONMENT) from error
        raise OneflowerError(
            f"Cannot read the VM's context at {path}: {getattr(error, 'strerror', None) or error}.",
            "Check that the VM template has a CONTEXT section and that the context disk is mounted there.",
            ExitCode.ENVIRONMENT,
        ) from error


def _reason(folder: Path) -> str:
    try:
        return (folder / FAILED).read_text(encoding="utf-8")
    except OSError:
        return ""


def read_token(folder: Path) -> str:
    """Return the OneGate token in `folder`/token.txt. Raises `OneflowerError` if there is none."""
    path = folder / "token.txt"
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        token, reason = "", f" ({error})"
    else:
        reason = ""
    if not re.fullmatch(r"[!-~]*", token):
        token, reason = "", " that is valid"
    if not token:
        raise OneflowerError(
            f"No OneGate token at {path}{reason}: this VM cannot publish that it is ready.",
            'Set TOKEN="YES" in the CONTEXT section of the VM template.',
            ExitCode.ENVIRONMENT,
        )
    return token
