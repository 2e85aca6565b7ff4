"""Whether the scripts of the context have ended: one that hangs must not keep the agent silent."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from oneflower_appliance.errors import ExitCode, OneflowerError

# Seconds. It is less than the ten minutes for which `oneflower up` waits, so that the reason is told there, too.
LIMIT = 540.0
UNFINISHED = Path("/run/oneflower/scripts.unfinished")  # there only while scripts take longer than that


def check_scripts() -> None:
    """Raise `OneflowerError` while the scripts of the context take too long: the machine may not be as it should be."""
    with suppress(FileNotFoundError):
        name = UNFINISHED.read_text(encoding="utf-8")
        raise OneflowerError(
            f"{name} has not ended within {LIMIT / 60:.0f} minutes. The agent starts Flower when it has.",
            "Let what takes long run in the background, or end it: its output is in the machine's journal "
            "(journalctl -u oneflower-online).",
            ExitCode.ENVIRONMENT,
        )
