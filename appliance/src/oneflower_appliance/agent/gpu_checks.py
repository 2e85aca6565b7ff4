"""Whether the GPUs that FL_GPU_ENABLED asks for can be used: the driver, the devices, their memory, and PyTorch.

None of this keeps a node away: it trains on its CPU, and says why.
"""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent import nvml
from oneflower_appliance.checks import OK, WARN, Check, Topic
from oneflower_appliance.orders import MEMORY_VARIABLE
from oneflower_appliance.use_cases import FRAMEWORKS, NO_USE_CASE, frameworks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from oneflower_appliance.agent.nvml import Driver, Gpu
    from oneflower_appliance.values import Settings

_NVIDIA = "0x10de"  # its number among the makers of PCI devices
_DISPLAY = "0x03"  # how the class of a PCI device begins that is a GPU
_SUPERNODE = b"oneflower_appliance.flower.main\0supernode\0"  # in the command of its process
_ALL = 1.001
_RESERVED = 1 << 30  # bytes: more than the driver keeps for itself
_EXCLUSIVE, _PROHIBITED = 3, 2  # compute modes
_DRIVER = "Boot an image that has it: `oneflower image build --gpu`, or one of your own (docs/gpu.md)."
_PASS = "Pass one through (`oneflower register --gpu`), or set FL_GPU_ENABLED=NO."  # noqa: S105 - no password


def look_at_gpus(
    settings: Settings,
    system: Path = Path("/"),
    ask: Callable[[], Driver] = nvml.ask_driver,
    cuda_of_torch: Callable[[], str | None] | None = None,
) -> Iterator[Check]:
    """Yield what FL_GPU_ENABLED asks for and is not there, or one check that says what is. `system` has /dev and /sys.

    `cuda_of_torch` returns the CUDA of the PyTorch that is installed, empty if it has none, and None without PyTorch.
    """
    devices = sorted(path.name for path in (system / "dev").glob("nvidia[0-9]*"))
    if not settings.flag("FL_GPU_ENABLED"):
        unused = f"{', '.join(devices)}, not used: FL_GPU_ENABLED is NO"
        yield Check(OK, Topic.GPU, unused if devices else "none, and none is asked for")
        return
    passed = _on_the_bus(system)
    try:
        driver = ask()
    except nvml.NvmlError as error:
        yield _refused(error, passed)
        return
    if not driver.gpus:
        yield _none(driver, passed)
        return
    cuda = (cuda_of_torch or torch_cuda)()
    found = [
        *_by_framework(settings),
        *_by_torch(driver, cuda),
        *_by_choice(driver, settings.text("FL_CUDA_VISIBLE_DEVICES")),
    ]
    for gpu in _chosen(driver, settings.text("FL_CUDA_VISIBLE_DEVICES")):
        found += _by_gpu(gpu, settings.real("FL_GPU_MEMORY_FRACTION"), system)
    found += _by_neighbours(system)
    yield from found or [Check(OK, Topic.GPU, f"{_names(driver.gpus)}; driver {driver.release}, CUDA {_cuda(driver)}")]


def torch_cuda() -> str | None:
    """Return the CUDA that the installed PyTorch was built for, without importing it: that takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*(?:'([\d.]+)'|None)", text, re.MULTILINE)
    return None if found is None else found[1] or ""


def _on_the_bus(system: Path) -> list[str]:
    """Return the PCI addresses of NVIDIA's GPUs, whether or not they have a driver."""
    found = []
    for folder in (system / "sys/bus/pci/devices").glob("*"):
        try:
            maker, kind = ((folder / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if maker == _NVIDIA and kind.startswith(_DISPLAY):
            found.append(folder.name)
    return sorted(found)


def _refused(error: nvml.NvmlError, passed: Sequence[str]) -> Check:
    """Say why NVML does not answer."""
    if error.code in (nvml.NO_LIBRARY, nvml.NOT_LOADED) and not passed:
        return _warn("FL_GPU_ENABLED is YES, and there is no GPU: apps train on the CPU", _PASS)
    where = f"the GPU at {', '.join(passed)}" if passed else "a GPU"
    said = {
        nvml.NO_BINDING: (
            "the driver cannot be asked: NVIDIA's binding nvidia-ml-py is not installed",
            "Install oneflower-appliance with its extra `metrics`. Apps may use the GPU all the same.",
        ),
        nvml.NO_LIBRARY: (f"there is {where} and no driver: apps train on the CPU", _DRIVER),
        nvml.NOT_LOADED: (
            f"the driver for {where} is installed and not loaded: apps train on the CPU",
            "`modprobe nvidia` and `dmesg` say why: it was built for another kernel, or Secure Boot refuses it.",
        ),
        nvml.MISMATCH: (
            "the driver in the kernel and its library are of two releases: apps train on the CPU",
            "Restart the machine, which loads the new one. If it stays so, install both of one release.",
        ),
        nvml.NO_PERMISSION: (
            "this user may not use the GPU: apps train on the CPU",
            "Give it access to /dev/nvidia*; in a unit of systemd by DeviceAllow, as the image's unit does.",
        ),
    }
    detail, fix = said.get(error.code, (
        f"the driver refuses ({error}): apps train on the CPU", "`nvidia-smi` and `dmesg` say more on the machine.",
    ))  # fmt: skip
    return _warn(detail, fix)


def _none(driver: Driver, passed: Sequence[str]) -> Check:
    if not passed:
        return _warn(f"the driver {driver.release} is loaded, and there is no GPU: apps train on the CPU", _PASS)
    return _warn(
        f"the driver {driver.release} does not take the GPU at {', '.join(passed)}: apps train on the CPU",
        "`dmesg | grep NVRM` says why: a driver too old or too new for it, or no licence for a vGPU.",
    )


def _by_framework(settings: Settings) -> Iterator[Check]:
    """Yield that the use case trains with a framework that uses no GPU. Apps of your own may bring another one."""
    use_case, name = settings.text("FL_USE_CASE"), settings.text("ML_FRAMEWORK")
    if use_case != NO_USE_CASE and not FRAMEWORKS[name].is_pytorch:
        fitting = [each for each in frameworks_of(use_case) if FRAMEWORKS[each].is_pytorch]
        yield _warn(
            f"{use_case} trains with {name}, of which machines have the build for CPUs: apps train on the CPU",
            f"Set ML_FRAMEWORK to one of {', '.join(fitting)}, or FL_GPU_ENABLED=NO.",
        )


def _by_torch(driver: Driver, cuda: str | None) -> Iterator[Check]:
    """Yield whether the installed PyTorch can use the driver: within a major release of CUDA, any driver will do."""
    if cuda == "":
        yield _warn(
            "the PyTorch of this machine is a build for CPUs: apps train on the CPU",
            "Install a build with CUDA in its place (docs/gpu.md).",
        )
    elif cuda and int(cuda.partition(".")[0]) > driver.cuda[0]:
        yield _warn(
            f"the driver {driver.release} knows CUDA {_cuda(driver)}, and PyTorch is built for CUDA {cuda}: apps train "
            "on the CPU",
            "Install a newer driver, or a PyTorch that is built for the driver's CUDA (docs/gpu.md).",
        )


def _by_choice(driver: Driver, choice: str) -> Iterator[Check]:
    """Yield which of FL_CUDA_VISIBLE_DEVICES do not exist. CUDA sees none of those that are named after one."""
    missing = [] if choice == "all" else [name for name in choice.split(",") if not _called(name, driver)]
    if missing:
        there = ", ".join(str(gpu.index) for gpu in driver.gpus)
        yield _warn(
            f"FL_CUDA_VISIBLE_DEVICES names {', '.join(missing)}, and this machine has {there}: CUDA uses none from "
            "there on",
            "Name GPUs that `nvidia-smi -L` lists, by number or UUID, or set it to all.",
        )


def _chosen(driver: Driver, choice: str) -> list[Gpu]:
    if choice == "all":
        return list(driver.gpus)
    named = [gpu for name in choice.split(",") for gpu in _called(name, driver)]
    return [gpu for gpu in driver.gpus if gpu in named]


def _called(name: str, driver: Driver) -> list[Gpu]:
    """Return the GPUs that CUDA calls so: by number, or by the beginning of a UUID of it or of an instance of it."""
    return [
        gpu
        for gpu in driver.gpus
        if (name.isdecimal() and int(name) == gpu.index)
        or (not name.isdecimal() and any(uuid.startswith(name) for uuid in (gpu.uuid, *(gpu.instances or ()))))
    ]


def _by_gpu(gpu: Gpu, share: float, system: Path) -> Iterator[Check]:
    """Yield what keeps tasks from one GPU."""
    title = f"GPU {gpu.index} ({gpu.name})"
    if gpu.mode == _PROHIBITED:
        yield _warn(f"{title} is closed to programs (compute mode prohibited)", f"`nvidia-smi -i {gpu.index} -c 0`.")
    if gpu.instances is not None and not gpu.instances:
        yield _warn(
            f"{title} is in MIG mode and has no instance: CUDA finds no device",
            f"Make one (`nvidia-smi mig -i {gpu.index} -cgi PROFILE -C`), or switch it off "
            f"(`nvidia-smi -i {gpu.index} -mig 0`).",
        )
    if gpu.instances is not None:
        return  # the memory is that of its instances
    others = None if gpu.users is None else [user for user in gpu.users if not _is_ours(user, system)]
    if gpu.mode == _EXCLUSIVE and others:
        yield _warn(
            f"{title} takes one program at a time, and process {others[0]} has it",
            f"End that, or let several in: `nvidia-smi -i {gpu.index} -c 0`.",
        )
    ours = gpu.users is not None and others != list(gpu.users)
    if gpu.free + _RESERVED < gpu.memory * share and not ours:
        by = f" by process {', '.join(map(str, others))}" if others else ""
        least = int(gpu.free / gpu.memory * 100) / 100
        yield _warn(
            f"{title} is busy: {_gib(gpu.free)} of {_gib(gpu.memory)} GiB are free, the rest is used{by}, and a task "
            f"may take {_gib(gpu.memory * share)}",
            "End the other program, or choose another GPU with FL_CUDA_VISIBLE_DEVICES."
            + (f" Or set FL_GPU_MEMORY_FRACTION to {least:g} or less." if least else ""),
        )


def _by_neighbours(system: Path) -> Iterator[Check]:
    """Yield that the SuperNodes of this machine together may take more memory than a GPU has. Each has one task."""
    shares = {}
    for folder in (system / "proc").glob("[0-9]*"):
        try:
            command, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if _SUPERNODE in command:
            said = dict(item.partition(b"=")[::2] for item in environment.split(b"\0"))
            if share := said.get(MEMORY_VARIABLE.encode()):
                with suppress(ValueError):  # another process may have anything in its environment
                    shares[said.get(b"FLWR_HOME", b"")] = float(share)
    if (total := sum(shares.values())) > _ALL:
        yield _warn(
            f"the {len(shares)} SuperNodes of this machine may take {total:g} times the memory of a GPU",
            f"Set FL_GPU_MEMORY_FRACTION of each to {int(100 / len(shares)) / 100:g} or less.",
        )


def _is_ours(process: int, system: Path) -> bool:
    """Whether it is a task of a SuperNode: it has our variable in its environment."""
    try:
        return f"{MEMORY_VARIABLE}=".encode() in (system / "proc" / str(process) / "environ").read_bytes()
    except OSError:
        return False


def _names(gpus: Sequence[Gpu]) -> str:
    shown = []
    for gpu in gpus:
        parts = "" if gpu.instances is None else f", {len(gpu.instances)} MIG instances"
        shown.append(f"{gpu.name} with {_gib(gpu.memory)} GiB{parts}")
    return ", ".join(shown)


def _cuda(driver: Driver) -> str:
    return ".".join(map(str, driver.cuda))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


def _warn(detail: str, fix: str) -> Check:
    return Check(WARN, Topic.GPU, detail, fix)
