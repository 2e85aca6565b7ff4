"""Which GPUs apps may use, and how much of their memory: none unless FL_GPU_ENABLED says so."""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

from oneflower_appliance.orders import MEMORY_VARIABLE, VISIBLE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.values import Settings

_SHARES = (2, 10)  # PyTorch reads its share from the environment since this release; an older one would refuse it


def environment(settings: Settings, release: Callable[[str], str] = importlib.metadata.version) -> dict[str, str]:
    """Return the environment of apps for CUDA, PyTorch, JAX and TensorFlow.

    Without FL_GPU_ENABLED, CUDA has no device. A process of PyTorch or JAX takes its share of a GPU's memory at most.
    TensorFlow has no variable for a share, so it takes memory as it needs it and not all at once. `release` returns
    the release of an installed package.
    """
    if not settings.flag("FL_GPU_ENABLED"):
        return {VISIBLE_VARIABLE: ""}
    share, chosen = settings["FL_GPU_MEMORY_FRACTION"], settings.text("FL_CUDA_VISIBLE_DEVICES")
    return {
        MEMORY_VARIABLE: share,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # numbers as in nvidia-smi, and not the fastest first
        "XLA_PYTHON_CLIENT_MEM_FRACTION": share,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **({"PYTORCH_CUDA_ALLOC_CONF": f"per_process_memory_fraction:{share}"} if _shares(release) else {}),
        **({} if chosen == "all" else {VISIBLE_VARIABLE: chosen}),
    }


def _shares(release: Callable[[str], str]) -> bool:
    try:
        found = re.match(r"(\d+)\.(\d+)", release("torch"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= _SHARES
