"""Counts the messages of every ServerApp: the only signs of life of an app without a strategy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.training.traffic import Traffic
from oneflower_appliance.training.waiting import Asking

if TYPE_CHECKING:
    from pathlib import Path


def count_messages(runs: Path) -> None:
    """Have this process's ServerApp leave in its run's folder how many messages it sent and received."""
    task = internals.serverapp_task()
    run_app = task.run_

    @functools.wraps(run_app)
    def running(*, grid: Any, **kwargs: Any) -> Any:
        traffic = Traffic.of(grid)
        traffic.run_config = getattr(kwargs.get("context"), "run_config", {})
        folder = runs / str(grid.run.run_id)
        traffic.write_to(folder)
        asking = Asking(folder, traffic)
        asking.watch(grid)
        try:
            return run_app(grid=grid, **kwargs)
        finally:
            asking.end()
            traffic.close()

    task.run_ = running
