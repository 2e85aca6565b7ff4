"""Pin every package of the runtimes for the tested Flower release: src/oneflower/runtimes/locks/*.txt."""

from __future__ import annotations

import re
import subprocess

from uv import find_uv_bin

from oneflower.runtimes.runtime import FRAMEWORKS, PINNED
from oneflower_appliance.parameters import FLOWER_TESTED

# Builds of torch for the CPU and for each CUDA have hashes of their own and other packages beside them.
_BY_BUILD = re.compile(r"(torch|triton|nvidia-|cuda-)")


def lock(framework: str) -> str:
    """Return what is installed for a framework, with the hashes of all files of each package."""
    wanted = "\n".join([f"flwr=={FLOWER_TESTED}", *FRAMEWORKS[framework]])
    compiled = subprocess.run(
        [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header",
         "--no-annotate", "--generate-hashes", "-"],
        input=wanted, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    packages = re.split(r"\n(?=\S)", compiled.strip())
    torch = [re.split(r"[ \\]", package)[0] for package in packages if package.startswith("torch==")]
    return "\n".join([*torch, *(package for package in packages if not _BY_BUILD.match(package))]) + "\n"


if __name__ == "__main__":
    for name in FRAMEWORKS:
        (PINNED / f"flwr-{FLOWER_TESTED}-{name}.txt").write_text(lock(name), encoding="utf-8")
