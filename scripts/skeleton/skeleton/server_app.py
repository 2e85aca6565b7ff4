"""What the SuperLink does: ask the nodes what they have, and aggregate."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from oneflower_appliance.training import survey
from oneflower_appliance.training.frameworks import framework_name
from oneflower_appliance.training.strategies import make_strategy
from skeleton import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    framework_name(config, ("sklearn",))
    nodes = survey.ask(grid, int(config["min-available-nodes"]))
    start = task.initial(nodes.agreed("columns"))
    make_strategy(config).start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(array) for name, array in start.items()}),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({**nodes.settings}),
        evaluate_config=ConfigRecord({**nodes.settings}),
    )
