"""What NVIDIA's driver says of this machine's GPUs, through its own library NVML and NVIDIA's binding for it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BINDING = "pynvml"


class NvmlError(Exception):
    """NVML does not answer, or a GPU does not. `code` is NVML's own, 0 if its binding is not installed."""

    def __init__(self, code: int, said: object) -> None:
        self.code = code
        super().__init__(str(said))


# NVML's codes for why it does not answer.
NO_BINDING, NO_PERMISSION, NOT_LOADED, NO_LIBRARY, MISMATCH = 0, 4, 9, 12, 18


@dataclass(frozen=True)
class Gpu:
    """One GPU: its number in the order of the PCI bus, and bytes of memory.

    `users` are the processes that compute on it, None if that is not known. `instances` are the UUIDs of its MIG
    instances, None if it is not in MIG mode. `mode` is NVML's compute mode: 0 if any number of processes may use it.
    """

    index: int
    name: str
    uuid: str
    memory: int
    free: int
    users: tuple[int, ...] | None
    instances: tuple[str, ...] | None
    mode: int


@dataclass(frozen=True)
class Driver:
    """The driver: its release, the newest CUDA that it knows (major and minor), and its GPUs."""

    release: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def ask_driver(load: Callable[[str], Any] = importlib.import_module) -> Driver:
    """Return what the driver says now. Raises `NvmlError`."""
    try:
        library = load(BINDING)
    except ImportError as error:
        raise NvmlError(NO_BINDING, error) from error
    try:
        library.nvmlInit()
        try:
            cuda = library.nvmlSystemGetCudaDriverVersion()
            return Driver(
                library.nvmlSystemGetDriverVersion(),
                (cuda // 1000, cuda % 1000 // 10),
                tuple(_gpu(library, index) for index in range(library.nvmlDeviceGetCount())),
            )
        finally:
            library.nvmlShutdown()
    except library.NVMLError as error:
        raise NvmlError(error.value, error) from error


def _gpu(library: Any, index: int) -> Gpu:
    """Ask about one GPU. What it does not support is not known: a vGPU tells no processes, for example."""
    device = library.nvmlDeviceGetHandleByIndex(index)
    memory = library.nvmlDeviceGetMemoryInfo(device)
    processes = _if_supported(library, lambda: library.nvmlDeviceGetComputeRunningProcesses_v3(device))
    mig = _if_supported(library, lambda: library.nvmlDeviceGetMigMode(device)[0])
    return Gpu(
        index,
        library.nvmlDeviceGetName(device),
        library.nvmlDeviceGetUUID(device),
        memory.total,
        memory.free,
        None if processes is None else tuple(process.pid for process in processes),
        tuple(_instances(library, device)) if mig else None,
        _if_supported(library, lambda: library.nvmlDeviceGetComputeMode(device)) or 0,
    )


def _instances(library: Any, device: Any) -> Iterator[str]:
    for index in range(library.nvmlDeviceGetMaxMigDeviceCount(device)):
        instance = _if_supported(library, partial(library.nvmlDeviceGetMigDeviceHandleByIndex, device, index))
        if instance is not None:
            yield library.nvmlDeviceGetUUID(instance)


def _if_supported(library: Any, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except library.NVMLError as error:
        if error.value in (
            library.NVML_ERROR_NOT_SUPPORTED, library.NVML_ERROR_NOT_FOUND, library.NVML_ERROR_FUNCTION_NOT_FOUND,
            library.NVML_ERROR_NO_PERMISSION,
        ):  # fmt: skip
            return None
        raise
