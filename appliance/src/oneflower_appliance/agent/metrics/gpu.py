"""What a SuperNode measures of its GPUs, through NVIDIA's own binding, which is imported only where there is a GPU."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance import metrics as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.metrics import Reading

log = logging.getLogger(__name__)

_BINDING = "pynvml"


class GpuMetrics:
    """Measures the GPUs whose device files are in `devices`. The driver is opened once."""

    def __init__(self, devices: Path = Path("/dev"), load: Callable[[str], Any] = importlib.import_module) -> None:
        self._present = any(devices.glob("nvidia[0-9]*"))
        self._load = load
        self._library: Any = None

    def measure(self) -> Iterator[Reading]:
        """Return the readings of this moment: none without a GPU. What a GPU does not support is left out."""
        if not self._present:
            return
        if self._library is None:
            library = self._load(_BINDING)
            library.nvmlInit()
            self._library = library
        for index in range(self._library.nvmlDeviceGetCount()):
            yield from self._of(index)

    def _of(self, index: int) -> Iterator[Reading]:
        library, name = self._library, str(index)
        device = library.nvmlDeviceGetHandleByIndex(index)
        try:
            memory = library.nvmlDeviceGetMemoryInfo(device)
            yield m.GPU_USED.is_(memory.used, name)
            yield m.GPU_MEMORY.is_(memory.total, name)
        except library.NVMLError as error:
            log.debug("GPU %d does not tell its memory: %s", index, error)
        try:
            yield m.GPU_USE.is_(library.nvmlDeviceGetUtilizationRates(device).gpu / 100, name)
        except library.NVMLError as error:
            log.debug("GPU %d does not tell its use: %s", index, error)
        try:
            yield m.GPU_HEAT.is_(library.nvmlDeviceGetTemperature(device, library.NVML_TEMPERATURE_GPU), name)
        except library.NVMLError as error:
            log.debug("GPU %d does not tell its temperature: %s", index, error)
