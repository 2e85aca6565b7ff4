"""The device that PyTorch trains on: a GPU if the node has one and may use it, otherwise the CPU."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from oneflower_appliance.orders import MEMORY_VARIABLE

if TYPE_CHECKING:
    import torch

log = logging.getLogger("flwr")


def torch_device() -> torch.device:
    """Return the device and log it. On a GPU this process takes its share of the memory only."""
    import torch  # noqa: PLC0415 - only in runtimes with PyTorch

    if not torch.cuda.is_available():
        log.info("Training on the CPU.")
        return torch.device("cpu")
    if fraction := os.environ.get(MEMORY_VARIABLE):
        torch.cuda.set_per_process_memory_fraction(float(fraction))
    log.info("Training on the GPU %s.", torch.cuda.get_device_name())
    return torch.device("cuda")
