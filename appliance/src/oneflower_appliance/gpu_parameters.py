"""The variables of GPUs: which of them apps may use, how much of their memory, and how PyTorch computes."""

from __future__ import annotations

import re

from oneflower_appliance.form import Field, Group
from oneflower_appliance.parameter import Kind, Level, Parameter

PRECISIONS = FULL, BF16, FP16 = ("no", "bf16", "fp16")
_WITH_GPU = ("FL_GPU_ENABLED", ("YES",))

MIXED_PRECISION = Parameter(
    "FL_MIXED_PRECISION", Level.SUPERLINK, Kind.LIST, FULL,
    "Nodes train in half precision where that is enough, with PyTorch: bf16, or fp16 on nodes with a GPU. "
    "no = in full precision",
    f"one of {', '.join(PRECISIONS)}", options=PRECISIONS, key="mixed-precision",
)  # fmt: skip

GPU = (
    Parameter("FL_GPU_ENABLED", Level.SUPERNODE, Kind.BOOLEAN, "NO", "Use the GPU that is passed through", "YES or NO",
              field=Field(Group.NODES, 3, "GPU")),
    Parameter("FL_CUDA_VISIBLE_DEVICES", Level.SUPERNODE, Kind.TEXT, "all", "GPUs to use",
              "all, or a comma-separated list of indices or UUIDs", only=_WITH_GPU,
              check=lambda v: bool(re.fullmatch(r"all|[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*", str(v)))),
    Parameter("FL_GPU_MEMORY_FRACTION", Level.SUPERNODE, Kind.FLOAT, "0.8", "Share of a GPU's memory for a task",
              "a number above 0 and at most 1", check=lambda f: 0 < float(f) <= 1, only=_WITH_GPU),
    Parameter("FL_DCGM_ENABLED", Level.SUPERNODE, Kind.BOOLEAN, "NO",
              "With the metrics also those of NVIDIA's DCGM exporter, if it is installed", "YES or NO",
              only=_WITH_GPU),
)  # fmt: skip
