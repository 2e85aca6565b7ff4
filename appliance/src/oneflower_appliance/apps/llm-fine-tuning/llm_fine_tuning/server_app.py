"""What the SuperLink does: aggregate the adapters. It neither has nor needs the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from oneflower_appliance.training import personal, survey
from oneflower_appliance.training.results import save_result
from oneflower_appliance.training.strategies import make_strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    personal.refuse(config)
    strategy = make_strategy(config)
    nodes = survey.ask(grid, int(config["min-available-nodes"]))
    names, shapes = nodes.agreed("_names"), nodes.agreed("_shapes")
    rng = np.random.default_rng(int(config["seed"]))
    start = {name: _initial(name, shape, rng) for name, shape in zip(names, shapes, strict=True)}
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(array) for name, array in start.items()}),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({**nodes.settings}),
        evaluate_config=ConfigRecord({**nodes.settings}),
    )
    # `PeftModel.from_pretrained(model, "adapter")` loads these two.
    save_result(grid, "adapter/adapter_config.json", nodes.agreed("_config") + "\n")
    save_result(grid, "adapter/adapter_model.safetensors", save({name: a.numpy() for name, a in result.arrays.items()}))


def _initial(name: str, shape: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the adapter's initial arrays for LoRA: A uniform, B zero, so the model is unchanged at first."""
    sizes = tuple(map(int, shape.split()))
    if "lora_A" not in name:
        return np.zeros(sizes, dtype=np.float32)
    limit = sizes[-1] ** -0.5
    return rng.uniform(-limit, limit, sizes).astype(np.float32)
