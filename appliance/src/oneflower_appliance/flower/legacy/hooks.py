"""Supervises apps on Flower's legacy API: where its server and its workflows are given a strategy.

Both are given a stand-in that records the run (see `run`). A server of the app's own gets it too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.legacy.run import LegacyRun
from oneflower_appliance.training.packing import Kind, add_kind

if TYPE_CHECKING:
    from pathlib import Path


def supervise_legacy(runs: Path, checkpoints: Path) -> None:
    """Supervise every strategy of the legacy API in this process. The folders are those of `supervise`."""
    parameters = internals.legacy_records().Parameters
    add_kind(
        "parameters",
        Kind(
            parameters, lambda found: [found.tensor_type, found.tensors], lambda parts: parameters(parts[1], parts[0])
        ),
    )
    owners = (internals.serverapps(), internals.legacy_servers())
    for owner in owners:
        owner.start_grid = _supervised_server(owner.start_grid, runs, checkpoints)
    workflow = internals.legacy_workflow()
    workflow.__call__ = _supervised_workflow(workflow.__call__, runs, checkpoints)  # type: ignore[method-assign]


def _supervised_server(original: Any, runs: Path, checkpoints: Path) -> Any:
    api = internals.legacy_api()

    @functools.wraps(original)
    def start_grid(
        *, grid: Any, server: Any = None, config: Any = None, strategy: Any = None, client_manager: Any = None
    ) -> Any:
        if server is None:
            manager = api.SimpleClientManager() if client_manager is None else client_manager  # an empty one is false
            server = api.Server(client_manager=manager, strategy=strategy)
            strategy = None
        given = getattr(server, "strategy", None)
        if given is None:  # a server of the app's own, with its own way to train
            return original(grid=grid, server=server, config=config, strategy=strategy, client_manager=client_manager)
        run = LegacyRun(given, grid, runs, checkpoints)
        with run.supervised(config) as (stand_in, chosen):
            server.strategy = stand_in
            try:
                return original(grid=grid, server=server, config=chosen, strategy=strategy)
            finally:
                server.strategy = given

    return start_grid


def _supervised_workflow(original: Any, runs: Path, checkpoints: Path) -> Any:
    @functools.wraps(original)
    def call(self: Any, grid: Any, context: Any) -> None:
        if not isinstance(context, internals.legacy_api().LegacyContext):
            original(self, grid, context)
            return
        given = context.strategy, context.config
        run = LegacyRun(context.strategy, grid, runs, checkpoints, self)
        with run.supervised(context.config) as (stand_in, chosen):
            context.strategy, context.config = stand_in, chosen
            try:
                original(self, grid, context)
            finally:
                context.strategy, context.config = given

    return call
