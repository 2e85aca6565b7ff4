"""What people see: remarks, results, tables at the end, JSON for programs.

Results go to standard output, remarks and progress (`steps.py`) to standard error.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.events import Note
from oneflower.printable import in_a_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


class Output(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def console() -> Console:
    """Return the console for progress and remarks."""
    from rich.console import Console  # noqa: PLC0415 - costs time that --help need not spend

    return Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=None if sys.stderr.isatty() else False)


def say(text: str) -> None:
    """Print a remark."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """Print a remark on something that a person should know."""
    say(str(Note(text)))


def warn(text: str) -> None:
    """Print a remark that must not be overlooked, in red if the terminal has colours."""
    console().print(printable(text), style="red", markup=False)


def show(text: str) -> None:
    """Print a result."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def show_line(text: str) -> None:
    """Print a result in one line, whatever it holds, so that no part of it looks like another line."""
    show(printable(text).replace("\n", " "))


def show_json(value: Any) -> None:
    """Print a result as JSON."""
    show(json.dumps(_plain(value), indent=2, default=str))


def show_result(output: Output, value: Any, text: str) -> None:
    """Print a result as it was asked for: `value` as JSON, or `text`."""
    if output is Output.JSON:
        show_json(value)
    else:
        show(text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in ("ca", "host_keys", "pinned")}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # which JSON cannot express
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as wide as its content."""
    texts = [[in_a_line(str(cell)) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in texts) for index in range(len(columns))]
    for row in texts:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def safe(text: str) -> str:
    """Return text for rich, which would read words in brackets as markup."""
    from rich.markup import escape  # noqa: PLC0415 - as `console`

    return escape(in_a_line(text))


def program() -> str:
    """Return the command that starts this program in the user's shell: its name if PATH finds it, else its path.

    `make demo`, which starts it in another environment, sets ONEFLOWER_COMMAND to what works outside.
    """
    if command := os.environ.get("ONEFLOWER_COMMAND"):
        return command
    called = Path(sys.argv[0])
    if called.name != "oneflower":
        return "oneflower"
    found = shutil.which("oneflower")
    return "oneflower" if found and Path(found).resolve() == called.resolve() else str(called)
