"""Text from elsewhere, made safe for a terminal.

What a virtual machine publishes, the name of a service, what an app logs: all of it is printed, and all of it can hold
control sequences, which rename a terminal, hide lines or show text in another order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# What firmware, boot loader and systemd draw with on a console.
_DRAWING = re.compile(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[A-Za-z])")
# C0 (except tab and line feed, which replaces a carriage return), DEL and C1; marks, overrides and isolates of
# bidirectional text; the separators of lines and paragraphs; surrogates, which cannot be written.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text without colours, and with every other character that a terminal acts on written out."""
    return _UNSAFE.sub(
        lambda found: _written_out(found[0]), _COLOURS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    )


def in_a_line(text: str) -> str:
    """Return the text in one line, for a cell of a table: a second line would look like another row."""
    return " ".join(printable(text).split())


def of_console(lines: Iterable[str]) -> list[str]:
    """Return what a machine wrote to its console: without what it draws with, and without empty lines."""
    plain = (_DRAWING.sub("", line).rstrip() for line in lines)
    return [line for line in plain if line]


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts, which has a plural with `s`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _written_out(character: str) -> str:
    return f"\\u{ord(character):04x}"  # so that JSON and TOML stay valid
