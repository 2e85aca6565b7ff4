"""What oneflower adds to every run of every app, without a change to the app.

All strategies of Flower's Message API run through `Strategy.start`, so that one method is wrapped in the ServerApp's
process, and each call of it becomes a supervised run.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from oneflower_appliance.training.message_run import MessageRun

if TYPE_CHECKING:
    from pathlib import Path


def supervise(runs: Path, checkpoints: Path) -> None:
    """Supervise every strategy that is started in this process.

    A run leaves its record in `runs`/<run id> and its checkpoints in `checkpoints`/<id of the first run>.
    """
    original = Strategy.start

    @functools.wraps(original)
    def start(self: Strategy, grid: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(self, grid, *args, **kwargs)
        chosen = frozenset(given.arguments)
        given.apply_defaults()
        return MessageRun(self, grid, runs, checkpoints, Strategy).start(original, dict(given.arguments), chosen)

    Strategy.start = start  # type: ignore[method-assign]
