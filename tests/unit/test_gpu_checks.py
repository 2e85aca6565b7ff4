"""What a machine says of its GPUs: NVIDIA's own binding, over a stand-in for NVIDIA's library."""

from __future__ import annotations

import pynvml
import pytest

from oneflower_appliance.agent import gpu_checks, supernode
from oneflower_appliance.agent.flower_process import prepare
from oneflower_appliance.agent.gpu_checks import look_at_gpus, torch_cuda
from oneflower_appliance.checks import OK, WARN, Topic
from oneflower_appliance.orders import MEMORY_VARIABLE
from oneflower_appliance.settings import resolve

from .fake_nvml import GIB, FakeGpu, FakeLibrary, install


@pytest.fixture
def look(tmp_path, monkeypatch):
    def look(library=None, cuda=None, passed=("0000:41:00.0",), **given):
        install(monkeypatch, library)
        for address in passed:
            folder = tmp_path / "sys/bus/pci/devices" / address
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "vendor").write_text("0x10de\n")
            (folder / "class").write_text("0x030200\n")
        settings = resolve({"FL_GPU_ENABLED": "YES", **given}, supernode.LEVELS)
        found = list(look_at_gpus(settings, tmp_path, cuda_of_torch=lambda: cuda))
        assert {check.what for check in found} == {Topic.GPU}
        assert all(check.status == OK or check.fix for check in found)
        assert library is None or library.open == 0, "NVML is closed again"
        return found

    return look


def test_gpus_in_order_are_one_line_with_the_driver(look):
    [check] = look(FakeLibrary(FakeGpu(), FakeGpu(uuid="GPU-b")), cuda="13.0")
    assert (check.status, check.detail) == (
        OK, "NVIDIA H200 with 80.0 GiB, NVIDIA H200 with 80.0 GiB; driver 580.95.05, CUDA 13.0",
    )  # fmt: skip
    [check] = look(FakeLibrary(FakeGpu(instances=("MIG-1", "MIG-2"), free=0)))
    assert "2 MIG instances" in check.detail


def test_nobody_is_asked_where_no_gpu_is_to_be_used(look, tmp_path):
    [check] = look(FakeLibrary(init=pynvml.NVML_ERROR_UNKNOWN), FL_GPU_ENABLED="NO")
    assert (check.status, check.detail) == (OK, "none, and none is asked for")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert look(FL_GPU_ENABLED="NO")[0].detail == "nvidia0, not used: FL_GPU_ENABLED is NO"


@pytest.mark.parametrize(
    ("library", "passed", "detail", "fix"),
    [
        (None, (), "there is no GPU", "oneflower register --gpu"),
        (None, ("0000:41:00.0",), "the GPU at 0000:41:00.0 and no driver", "oneflower image build --gpu"),
        (FakeLibrary(init=9), ("0000:41:00.0",), "is installed and not loaded", "modprobe nvidia"),
        (FakeLibrary(init=9), (), "there is no GPU", "Pass one through"),
        (FakeLibrary(init=18), (), "are of two releases", "Restart the machine"),
        (FakeLibrary(init=4), (), "may not use the GPU", "DeviceAllow"),
        (FakeLibrary(init=15), (), "the driver refuses", "dmesg"),
        (FakeLibrary(), (), "and there is no GPU", "Pass one through"),
        (FakeLibrary(), ("0000:41:00.0",), "does not take the GPU at 0000:41:00.0", "grep NVRM"),
    ],
)
def test_why_there_is_no_gpu_and_how_to_get_one(look, library, passed, detail, fix):
    [check] = look(library, passed=passed)
    assert (check.status, detail in check.detail, fix in check.fix) == (WARN, True, True), check


def test_without_nvidias_binding_it_says_so(tmp_path):
    def ask():
        raise gpu_checks.nvml.NvmlError(gpu_checks.nvml.NO_BINDING, "No module named 'pynvml'")

    [check] = look_at_gpus(resolve({"FL_GPU_ENABLED": "YES"}, supernode.LEVELS), tmp_path, ask)
    assert "nvidia-ml-py is not installed" in check.detail


@pytest.mark.parametrize(
    ("gpu", "given", "cuda", "words"),
    [
        (FakeGpu(), {}, "14.1", ("knows CUDA 13.0", "PyTorch is built for CUDA 14.1", "newer driver")),
        (FakeGpu(), {}, "", ("build for CPUs", "a build with CUDA")),
        (FakeGpu(), {"FL_CUDA_VISIBLE_DEVICES": "1,0"}, None, ("names 1, and this machine has 0", "nvidia-smi -L")),
        (FakeGpu(), {"FL_CUDA_VISIBLE_DEVICES": "GPU-9"}, None, ("names GPU-9",)),
        (FakeGpu(), {"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "jax"}, None,
         ("anomaly-detection trains with jax", "ML_FRAMEWORK to one of pytorch, lightning, monai")),
        (FakeGpu(mode=2), {}, None, ("closed to programs", "nvidia-smi -i 0 -c 0")),
        (FakeGpu(mode=3, users={7: GIB}), {}, None, ("one program at a time, and process 7 has it",)),
        (FakeGpu(instances=()), {}, None, ("MIG mode and has no instance", "-cgi")),
        (FakeGpu(free=10 * GIB, users={7: 70 * GIB}), {}, None,
         ("10.0 of 80.0 GiB are free, the rest is used by process 7, and a task may take 64.0", "to 0.12 or less")),
        (FakeGpu(free=0, refuses={"processes": 3}), {}, None, ("0.0 of 80.0 GiB are free, the rest is used, and",)),
    ],
)  # fmt: skip
def test_what_keeps_tasks_from_a_gpu(look, gpu, given, cuda, words):
    [check] = look(FakeLibrary(gpu), cuda, **given)
    assert check.status == WARN
    assert [word for word in words if word not in check.sentence] == []


def test_what_is_no_trouble(look, tmp_path):
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/environ").write_bytes(f"A=1\0{MEMORY_VARIABLE}=0.8\0".encode())
    busy, idle = FakeGpu(free=0, users={7: GIB}), FakeGpu(uuid="GPU-b", instances=("MIG-1",), refuses={"mig": 3})
    assert look(FakeLibrary(busy))[0].status == OK, "it is a task of this node"
    foreign = FakeGpu(free=0, users={8: GIB})
    for chosen in ("1", "GPU-b", "MIG-1"):
        assert look(FakeLibrary(foreign, idle), FL_CUDA_VISIBLE_DEVICES=chosen)[0].status == OK, "another is chosen"
    assert look(FakeLibrary(FakeGpu(free=79 * GIB)), FL_GPU_MEMORY_FRACTION="1")[0].status == OK
    use_case = {"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "monai"}
    assert look(FakeLibrary(FakeGpu()), **use_case)[0].status == OK
    assert look(FakeLibrary(FakeGpu(), cuda=12020), "12.8")[0].status == OK, "within a major release any driver does"


def test_supernodes_on_one_machine_share_its_gpus(look, tmp_path):
    def start(process, home, share, role="supernode"):
        folder = tmp_path / "proc" / str(process)
        folder.mkdir(parents=True)
        command = ["python", *prepare(role)[1:]]
        (folder / "cmdline").write_bytes("\0".join([*command, ""]).encode())
        (folder / "environ").write_bytes(f"FLWR_HOME={home}\0{MEMORY_VARIABLE}={share}\0".encode())

    start(7, "/a", 0.5)
    start(8, "/a", 0.5)  # its SuperExec, which is a fork
    start(9, "/b", 0.5)
    start(10, "/c", 0.9, "superlink")
    assert look(FakeLibrary(FakeGpu()))[0].status == OK
    start(11, "/d", 0.5)
    [check] = look(FakeLibrary(FakeGpu()))
    assert check.detail == "the 3 SuperNodes of this machine may take 1.5 times the memory of a GPU"
    assert "FL_GPU_MEMORY_FRACTION of each to 0.33" in check.fix


def test_the_cuda_of_pytorch_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('it is slow')")
    monkeypatch.syspath_prepend(tmp_path)
    assert torch_cuda() is None
    for line, cuda in (("cuda: Optional[str] = '13.2'", "13.2"), ("cuda: Optional[str] = None", ""), ("", None)):
        (tmp_path / "torch/version.py").write_text(f"__version__ = '2.15.0'\n{line}\nhip: Optional[str] = '7'\n")
        assert torch_cuda() == cuda
