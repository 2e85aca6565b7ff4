"""Which NVIDIA GPUs a confined task sees: the devices in its /dev, and what CUDA hears of them."""

from __future__ import annotations

from pathlib import Path

from oneflower_appliance.orders import VISIBLE_VARIABLE


def gpus(said: str | None, most: int | None, devices: Path = Path("/dev")) -> tuple[list[str], dict[str, str]]:
    """Return the devices for a task that may use `most` GPUs (None: all), and the variable for CUDA.

    `said` is CUDA_VISIBLE_DEVICES as the SuperNode has it: None if it has none, and empty where it uses no GPU. The
    devices of other GPUs do not exist for the task, so CUDA counts those that do from 0. That needs indices: GPUs that
    are named in another way cannot be told apart by their devices. The task then gets none if there is a limit.
    """
    every = sorted(devices.glob("nvidia*"))
    if said == "":
        return [], {VISIBLE_VARIABLE: ""}
    by_index = said is None or all(one.isdecimal() for one in said.split(","))
    if most is None and (said is None or not by_index):
        return [str(path) for path in every], {}
    there = sorted(int(path.name[6:]) for path in every if path.name[6:].isdecimal())
    asked = there if said is None else [int(one) for one in said.split(",") if by_index]
    chosen = [number for number in dict.fromkeys(asked) if number in there][:most]
    if not chosen:
        return [], {VISIBLE_VARIABLE: ""}
    shared = [path for path in every if not path.name[6:].isdecimal()]
    found = [str(path) for path in (*shared, *(devices / f"nvidia{number}" for number in chosen))]
    return found, {VISIBLE_VARIABLE: ",".join(map(str, range(len(chosen))))}
