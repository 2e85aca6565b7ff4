"""Pin what is installed outside uv.lock, with the hashes of all wheels: the runtimes, and uv itself.

Writes src/oneflower/runtimes/locks/*.txt for each supported series of Flower, and scripts/uv.txt.
"""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from uv import find_uv_bin

from oneflower.runtimes.runtime import NO_FRAMEWORK, pinned_list
from oneflower_appliance.parameters import FLOWER_MINORS
from oneflower_appliance.use_cases import FRAMEWORKS


def lock(*wanted: str) -> str:
    """Return the packages that this needs, with the hashes of all wheels of each."""
    return subprocess.run(
        [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header",
         "--no-annotate", "--generate-hashes", "--only-binary", ":all:", "-"],
        input="\n".join(wanted), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


if __name__ == "__main__":
    for release in (f"{minor}.0" for minor in FLOWER_MINORS):
        wanted = {NO_FRAMEWORK: (), **{name: framework.packages for name, framework in FRAMEWORKS.items()}}
        for name, packages in wanted.items():
            text = lock(f"flwr=={release}", *packages)
            pinned_list(release, name).write_text(text, encoding="utf-8")
    (Path(__file__).parent / "uv.txt").write_text(lock(f"uv=={version('uv')}"), encoding="utf-8")
