"""Pin what is installed outside uv.lock, with the hashes of all wheels: the runtimes, uv itself, and NVFLARE.

Writes src/oneflower/runtimes/locks/*.txt for each supported series of Flower, each with what the exporter of metrics
needs, scripts/uv.txt and
scripts/peers/nvflare.txt. With the names of frameworks, only their lists are written, and what the list of scikit-learn
or PyTorch has too stays at its release. A list for images with a GPU (pytorch-gpu) follows that of its framework in all
but PyTorch and what PyTorch needs.

usage: python scripts/lock_runtimes.py [FRAMEWORK ...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from uv import find_uv_bin

from oneflower.runtimes.package_index import without_torch
from oneflower.runtimes.runtime import GPU, GPU_PACKAGES, NO_FRAMEWORK, pinned_list
from oneflower_appliance.parameters import FLOWER_MINORS
from oneflower_appliance.use_cases import FRAMEWORKS

NVFLARE = "nvflare==2.9.0"


def for_metrics() -> list[str]:
    """Return what the appliance needs besides Flower's packages: for the exporter."""
    found = map(Requirement, requires("oneflower-appliance") or ())
    return [
        f"{each.name}{each.specifier}" for each in found if each.marker and each.marker.evaluate({"extra": "metrics"})
    ]


def lock(*wanted: str, like: str = "") -> str:
    """Return the packages that this needs, with the hashes of all wheels of each; `like` is a list to follow."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
        stream.write(like)
        stream.flush()
        return subprocess.run(
            [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header",
             "--no-annotate", "--generate-hashes", "--only-binary", ":all:", "--constraint", stream.name, "-"],
            input="\n".join(wanted), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip


def near(release: str, name: str, packages: tuple[str, ...]) -> str:
    """Return the list that another one follows, which is there already."""
    if name.endswith(GPU):
        return without_torch(pinned_list(release, name.removesuffix(GPU)).read_text(encoding="utf-8"))
    return pinned_list(release, "pytorch" if "torch" in packages else "sklearn").read_text(encoding="utf-8")


if __name__ == "__main__":
    named, exporter = sys.argv[1:], for_metrics()
    for release in (f"{minor}.0" for minor in FLOWER_MINORS):
        wanted = {NO_FRAMEWORK: (), **{name: framework.packages for name, framework in FRAMEWORKS.items()}}
        wanted |= {f"{name}{GPU}": packages for name, packages in GPU_PACKAGES.items()}
        for name in named or wanted:
            like = near(release, name, wanted[name]) if named or name.endswith(GPU) else ""
            text = lock(f"flwr=={release}", *exporter, *wanted[name], like=like)
            pinned_list(release, name).write_text(text, encoding="utf-8")
    if not named:
        here = Path(__file__).parent
        (here / "uv.txt").write_text(lock(f"uv=={version('uv')}"), encoding="utf-8")
        (here / "peers" / "nvflare.txt").write_text(lock(NVFLARE), encoding="utf-8")
