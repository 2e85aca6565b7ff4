"""How the agent logs: to standard error, in the format of FL_LOG_FORMAT, with priorities where systemd reads it."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance.agent.systemd import Prioritised, under_journal
from oneflower_appliance.context import read_context
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.log_lines import JSON, JsonLines, TextLines, about, entry, line_of

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.values import Settings

_FORMAT = "FL_LOG_FORMAT"
_ERROR, _INFO = 3, 6  # of the journal


class AgentLog:
    """The log of this process. Until there are settings, the format is the one that the context names, if any."""

    def __init__(self, context_folder: Path) -> None:
        self._json = False
        about(process="agent")
        with suppress(OneflowerError):  # reported by the boot
            context = read_context(context_folder)
            self._json = context.get(_FORMAT) == JSON
            about(vm=context.get("VMID", ""), role=context.get("ONEFLOWER_ROLE", ""))

    @property
    def has_fields(self) -> bool:
        """Whether lines have fields, the federation's name among them."""
        return self._json

    def set_up(self, settings: Settings | None = None, *, quiet: bool = False) -> None:
        """Log as the settings say. If `quiet`, no step is worth a line on the console."""
        if settings is not None:
            self._json = settings.text(_FORMAT) == JSON
        handler = logging.StreamHandler(sys.stderr)
        lines: logging.Formatter = JsonLines() if self._json else TextLines()
        own = None if quiet else __package__
        handler.setFormatter(Prioritised(lines, own) if under_journal() else lines)
        logging.root.handlers[:] = [handler]
        logging.root.setLevel(settings.text("FL_LOG_LEVEL") if settings else "INFO")

    def give_up(self, error: OneflowerError, *, news: bool) -> None:
        """Write why the agent ends, where nothing else does."""
        text = error.sentence if under_journal() else str(error)
        line = line_of(entry("agent", error.sentence, "ERROR")) if self._json else f"oneflower-agent: {text}"
        mark = f"<{_ERROR if news else _INFO}>" if under_journal() else ""
        sys.stderr.write(f"{mark}{line}\n")
