"""What apps hear of the GPUs of their node."""

from __future__ import annotations

import importlib.metadata

import pytest

from oneflower_appliance.agent import gpu
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import MEMORY_VARIABLE
from oneflower_appliance.settings import resolve

SHARES = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",
    MEMORY_VARIABLE: "0.5",
}
IN_PYTORCH = {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.5"}
YES = {"FL_GPU_ENABLED": "YES", "FL_GPU_MEMORY_FRACTION": "0.5"}


@pytest.mark.parametrize(
    ("given", "torch", "expected"),
    [
        ({}, "2.15.0", {"CUDA_VISIBLE_DEVICES": ""}),
        ({"FL_CUDA_VISIBLE_DEVICES": "0"}, "2.15.0", {"CUDA_VISIBLE_DEVICES": ""}),
        (YES, "2.15.0+cu130", SHARES | IN_PYTORCH),
        (YES, "2.9.1", SHARES),
        (YES, "", SHARES),
        (YES | {"FL_CUDA_VISIBLE_DEVICES": "0,2"}, "3.0.0", SHARES | IN_PYTORCH | {"CUDA_VISIBLE_DEVICES": "0,2"}),
    ],
)
def test_gpus_are_hidden_unless_asked_for_and_shared_by_memory(given, torch, expected):
    def release(package):
        if not torch:
            raise importlib.metadata.PackageNotFoundError(package)
        return torch

    assert gpu.environment(resolve(given), release) == expected


@pytest.mark.parametrize("framework", ["pytorch", "lightning", "monai"])
def test_mixed_precision_is_for_pytorch(framework):
    given = {"FL_USE_CASE": "anomaly-detection", "FL_MIXED_PRECISION": "fp16"}
    resolve(given | {"ML_FRAMEWORK": framework})
    with pytest.raises(OneflowerError, match="jax trains in full precision, so use 'no', or PyTorch"):
        resolve(given | {"ML_FRAMEWORK": "jax"})
    resolve({"FL_MIXED_PRECISION": "bf16"})  # an app of your own follows its own configuration
