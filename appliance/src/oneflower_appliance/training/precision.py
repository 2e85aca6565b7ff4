"""Mixed precision with PyTorch (FL_MIXED_PRECISION): most is computed in half precision, weights stay in float32.

What nodes exchange is float32 all the same, so that nodes with and without a GPU can take part in one run.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import torch

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.gpu_parameters import BF16, FP16, FULL, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

_TYPES = {FULL: None, BF16: torch.bfloat16, FP16: torch.float16}


class Precision:
    """How a node trains on `device`: as `wanted`, or in full precision where the device has no use for that.

    fp16 is for GPUs: its small gradients need to be scaled, and CPUs are slow with it. bf16 works on CPUs, too. Raises
    `OneflowerError` for a precision that there is not.
    """

    def __init__(self, wanted: str, device: torch.device) -> None:
        if wanted not in _TYPES:
            raise OneflowerError(
                f"The run config asks for mixed-precision={wanted!r}.",
                f"Give one of {', '.join(PRECISIONS)}.",
                ExitCode.INVALID_INPUT,
            )
        self._type = _TYPES[wanted]
        self._device = device.type
        if why := _useless(wanted, device.type):
            log.info("Training in full precision: %s.", why)
            self._type = None
        elif self._type:
            log.info("Training in mixed precision, %s.", wanted)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._type is torch.float16)

    def forward(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the model and its loss are computed."""
        return torch.autocast(self._device, self._type) if self._type else contextlib.nullcontext()

    def step(
        self, loss: torch.Tensor, optimiser: torch.optim.Optimizer, clip: Callable[[], object] = lambda: None
    ) -> None:
        """Compute the gradients of a loss and take a step. `clip` changes the gradients in between."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimiser)
        clip()
        self._scaler.step(optimiser)
        self._scaler.update()


def _useless(wanted: str, device: str) -> str:
    """Return why a device cannot train like this, or an empty text."""
    if wanted == FP16 and device != "cuda":
        return "fp16 is for GPUs, and this node trains on its CPU"
    if wanted == BF16 and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU has no bf16; fp16 would work"
    return ""
