"""Which GPUs apps may use: none unless FL_GPU_ENABLED says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.orders import MEMORY_VARIABLE

if TYPE_CHECKING:
    from oneflower_appliance.settings import Settings

log = logging.getLogger(__name__)

_DEVICES = Path("/dev")


def environment(settings: Settings, devices: Path = _DEVICES) -> dict[str, str]:
    """Return the environment for CUDA, PyTorch and TensorFlow: which GPUs they may use, and how much memory.

    If a GPU is asked for and missing, that is a warning: the apps then train on the CPU.
    """
    if not settings.flag("FL_GPU_ENABLED"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    if not any(devices.glob("nvidia[0-9]*")):
        log.warning(
            "FL_GPU_ENABLED is YES and this machine has no GPU: apps train on the CPU. Pass one through to the VM "
            "(`oneflower register --gpu`) and use an image with the driver."
        )
    found = {MEMORY_VARIABLE: settings["FL_GPU_MEMORY_FRACTION"]}
    chosen = settings.text("FL_CUDA_VISIBLE_DEVICES")
    return found if chosen == "all" else found | {"CUDA_VISIBLE_DEVICES": chosen}
