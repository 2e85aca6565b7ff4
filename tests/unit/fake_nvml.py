"""A stand-in for NVIDIA's library libnvidia-ml.so.1, below NVIDIA's own binding: C functions with out parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import pynvml

OK, TOO_SMALL = pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_INSUFFICIENT_SIZE
GIB = 1 << 30


@dataclass
class FakeGpu:
    name: str = "NVIDIA H200"
    uuid: str = "GPU-8f6a0001"
    memory: int = 80 * GIB
    free: int = 79 * GIB
    users: dict[int, int] = field(default_factory=dict)  # process: bytes
    instances: tuple[str, ...] | None = None
    mode: int = 0
    refuses: dict[str, int] = field(default_factory=dict)  # by function: the code


class FakeLibrary:
    """What ctypes would load. `init` is the code with which it starts."""

    def __init__(self, *gpus, driver="580.95.05", cuda=13000, init=OK):
        self._gpus, self._driver, self._cuda, self._init = list(gpus), driver, cuda, init
        self.open = 0

    def __getattr__(self, name):
        if name not in _FUNCTIONS:
            raise AttributeError(name)  # a driver that is older than the function
        return lambda *arguments: _FUNCTIONS[name](self, *arguments)


def _init(self, _flags):
    self.open += self._init == OK
    return self._init


def _shutdown(self):
    self.open -= 1
    return OK


def _put(out, value):
    out._obj.value = value
    return OK


def _text(buffer, value):
    buffer.value = value.encode()
    return OK


def _handle(out, number):
    out._obj.contents = type(out._obj)._type_()
    _handles[_key(out._obj)] = number
    return OK


_handles = {}


def _key(handle):
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value


def _gpu(self, handle):
    found = _handles[_key(handle)]
    return (self._gpus[found], "") if isinstance(found, int) else (self._gpus[found[0]], found[1])


def _by_index(self, index, out):
    return _handle(out, index.value)


def _memory(self, handle, out):
    gpu, _ = _gpu(self, handle)
    out._obj.total, out._obj.free, out._obj.used = gpu.memory, gpu.free, gpu.memory - gpu.free
    return OK


def _processes(self, handle, count, array):
    gpu, _ = _gpu(self, handle)
    if code := gpu.refuses.get("processes"):
        return code
    if gpu.users and array is None:
        count._obj.value = len(gpu.users)
        return TOO_SMALL
    for entry, (process, used) in zip(array or (), gpu.users.items(), strict=False):
        entry.pid, entry.usedGpuMemory = process, used
    return _put(count, len(gpu.users))


def _mig_mode(self, handle, current, pending):
    gpu, _ = _gpu(self, handle)
    if gpu.instances is None and gpu.refuses.get("mig"):
        return gpu.refuses["mig"]
    _put(pending, int(gpu.instances is not None))
    return _put(current, int(gpu.instances is not None))


def _instance(self, handle, index, out):
    gpu, _ = _gpu(self, handle)
    if index.value >= len(gpu.instances or ()):
        return pynvml.NVML_ERROR_NOT_FOUND
    return _handle(out, (self._gpus.index(gpu), gpu.instances[index.value]))


def _uuid(self, handle, buffer, _size):
    gpu, instance = _gpu(self, handle)
    return _text(buffer, instance or gpu.uuid)


_FUNCTIONS = {
    "nvmlInitWithFlags": _init,
    "nvmlShutdown": _shutdown,
    "nvmlErrorString": lambda _, code: f"NVML error {code}".encode(),
    "nvmlSystemGetDriverVersion": lambda self, buffer, _: _text(buffer, self._driver),
    "nvmlSystemGetCudaDriverVersion": lambda self, out: _put(out, self._cuda),
    "nvmlDeviceGetCount_v2": lambda self, out: _put(out, len(self._gpus)),
    "nvmlDeviceGetHandleByIndex_v2": _by_index,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetComputeRunningProcesses_v3": _processes,
    "nvmlDeviceGetMigMode": _mig_mode,
    "nvmlDeviceGetMaxMigDeviceCount": lambda _, __, out: _put(out, 7),
    "nvmlDeviceGetMigDeviceHandleByIndex": _instance,
    "nvmlDeviceGetName": lambda self, handle, buffer, _: _text(buffer, _gpu(self, handle)[0].name),
    "nvmlDeviceGetUUID": _uuid,
    "nvmlDeviceGetComputeMode": lambda self, handle, out: _put(out, _gpu(self, handle)[0].mode),
}


def install(monkeypatch, library):
    """Let NVIDIA's binding load `library`, or find none if it is None."""

    def load(name):
        assert name == "libnvidia-ml.so.1"
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlLib_refcount", 0)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
