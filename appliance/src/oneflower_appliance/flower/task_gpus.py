"""Which NVIDIA GPUs a confined task sees: the devices in its /dev, and what CUDA hears of them."""

from __future__ import annotations

from pathlib import Path

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus(said: str | None, most: int | None, devices: Path = Path("/dev")) -> tuple[list[str], dict[str, str]]:
    """Return the devices for a task that may use `most` GPUs (None: all), and the variable for CUDA.

    `said` is CUDA_VISIBLE_DEVICES as the SuperNode has it, None if it has none. With a limit the devices of other GPUs
    do not exist for the task, so CUDA counts those that do from 0. A limit needs indices: GPUs that are named in
    another way cannot be told apart by their devices, and the task then gets none.
    """
    every = sorted(devices.glob("nvidia*"))
    if most is None:
        return [str(path) for path in every], {}
    there = sorted(int(path.name[6:]) for path in every if path.name[6:].isdecimal())
    asked = there if said is None else [int(one) if one.isdecimal() else -1 for one in said.split(",")]
    chosen = [number for number in dict.fromkeys(asked) if number in there][:most]
    if -1 in asked or not chosen:
        return [], {_VISIBLE: ""}
    shared = [path for path in every if not path.name[6:].isdecimal()]
    found = [str(path) for path in (*shared, *(devices / f"nvidia{number}" for number in chosen))]
    return found, {_VISIBLE: ",".join(map(str, range(len(chosen))))}
