"""Pin what is installed outside uv.lock, with the hashes of all wheels: the runtimes, uv itself, and NVFLARE.

Writes src/oneflower/runtimes/locks/*.txt for each supported series of Flower, each with what the exporter of metrics
needs, scripts/uv.txt and
scripts/peers/nvflare.txt. With the names of frameworks, only their lists are written, and what the list of scikit-learn
or PyTorch has too stays at its release.

usage: python scripts/lock_runtimes.py [FRAMEWORK ...]
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from uv import find_uv_bin

from oneflower.runtimes.runtime import NO_FRAMEWORK, pinned_list
from oneflower_appliance.parameters import FLOWER_MINORS
from oneflower_appliance.use_cases import FRAMEWORKS

NVFLARE = "nvflare==2.9.0"


def for_metrics() -> list[str]:
    """Return what the appliance needs besides Flower's packages: for the exporter."""
    found = map(Requirement, requires("oneflower-appliance") or ())
    return [
        f"{each.name}{each.specifier}" for each in found if each.marker and each.marker.evaluate({"extra": "metrics"})
    ]


def lock(*wanted: str, like: Path | None = None) -> str:
    """Return the packages that this needs, with the hashes of all wheels of each; `like` is a list to follow."""
    constraints = [] if like is None else ["--constraint", str(like)]
    return subprocess.run(
        [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header",
         "--no-annotate", "--generate-hashes", "--only-binary", ":all:", *constraints, "-"],
        input="\n".join(wanted), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


if __name__ == "__main__":
    named, exporter = sys.argv[1:], for_metrics()
    for release in (f"{minor}.0" for minor in FLOWER_MINORS):
        wanted = {NO_FRAMEWORK: (), **{name: framework.packages for name, framework in FRAMEWORKS.items()}}
        for name in named or wanted:
            near = pinned_list(release, "pytorch" if "torch" in wanted[name] else "sklearn")
            text = lock(f"flwr=={release}", *exporter, *wanted[name], like=near if named else None)
            pinned_list(release, name).write_text(text, encoding="utf-8")
    if not named:
        here = Path(__file__).parent
        (here / "uv.txt").write_text(lock(f"uv=={version('uv')}"), encoding="utf-8")
        (here / "peers" / "nvflare.txt").write_text(lock(NVFLARE), encoding="utf-8")
