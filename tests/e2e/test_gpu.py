"""On a machine with an NVIDIA GPU and a PyTorch with CUDA: what NVML says, and a federation that trains there.

Everywhere else this is skipped, with the reason in one line.
"""

from __future__ import annotations

import pytest

from oneflower.runtimes import runtime
from oneflower_appliance.agent import nvml, supernode
from oneflower_appliance.agent.gpu_checks import look_at_gpus
from oneflower_appliance.checks import OK
from oneflower_appliance.settings import resolve

from .conftest import RELEASE

pytestmark = [pytest.mark.e2e, pytest.mark.gpu]
SHARED = {"FL_GPU_ENABLED": "YES", "FL_GPU_MEMORY_FRACTION": "0.4"}


@pytest.fixture(scope="module")
def driver():
    try:
        found = nvml.ask_driver()
    except nvml.NvmlError as error:
        pytest.skip(f"no GPU here: {error}")
    if not found.gpus:
        pytest.skip("no GPU here: the driver has none")
    return found


def test_a_real_gpu_is_in_order(driver):
    checks = list(look_at_gpus(resolve(SHARED, supernode.LEVELS), cuda_of_torch=lambda: None))
    assert [check.status for check in checks] == [OK], checks
    assert all(gpu.memory >= gpu.free > 0 and gpu.uuid for gpu in driver.gpus)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_nodes_train_on_one_gpu(driver, user, precision):
    version = next(iter(runtime.ensure(user.home.runtimes, RELEASE, "pytorch").bin.parent.rglob("torch/version.py")))
    if "cuda: Optional[str] = None" in version.read_text():
        pytest.skip("no CUDA here: the PyTorch of the runtime is a build for CPUs")
    given = {**SHARED, "ML_FRAMEWORK": "pytorch", "FL_MIXED_PRECISION": precision}
    user("up", "gpu", *(word for each in given.items() for word in ("--set", "=".join(each))))
    try:
        user("run", "image-classification", "--federation", "gpu", "--rounds", "1")
        said = user("logs", "gpu").stdout
    finally:
        user("down", "gpu")
    assert said.count(f"Training on the GPU {driver.gpus[0].name}.") >= 2, said
    assert said.count(f"Training in mixed precision, {precision}.") == 2, said
