"""Build every variant of the image and try each. The next is done also when one fails; a table at the end tells all.

A variant with NVIDIA's driver (pytorch-gpu, llm-gpu) takes a quarter of an hour and is built only when it is named.

usage: python scripts/images.py [--save FOLDER] [--flower-version RELEASE] [VARIANT ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from oneflower.cli import screen
from oneflower.images import VARIANTS
from oneflower.runtimes.runtime import GPU
from oneflower_appliance.parameters import FLOWER_TESTED

COMMAND = [Path(sys.executable).with_name("oneflower"), "image"]
EDGE = "edge"
LARGEST = {"none": 180, EDGE: 160, "sklearn": 220, "pytorch": 400}  # the file, in MB


def main() -> int:
    """Build and try the variants that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--save", default="images", metavar="FOLDER")
    parser.add_argument("--flower-version", default=FLOWER_TESTED, metavar="RELEASE")
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    given = parser.parse_args()
    wanted = given.variants or [*VARIANTS, EDGE]
    rows = [make(variant, given.save, given.flower_version) for variant in wanted]
    screen.say("")
    screen.show_table(["variant", "qcow2 MB", "rootfs MB", "build s", "result", "trial s"], rows)
    return 0 if all(row[4] == "passed" for row in rows) else 1


def make(variant: str, folder: str, release: str) -> list[str]:
    """Build an image and try it. Returns its row of the table."""
    screen.say(f"\n{variant}, Flower {release}")
    options = ["--edge"] if variant == EDGE else ["--framework", variant.removesuffix(GPU)]
    options += ["--gpu"] if variant.endswith(GPU) else []
    started = time.monotonic()
    built = subprocess.run(
        [*COMMAND, "build", *options, "--flower-version", release, "--save", folder, "-o", "json"],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds = f"{time.monotonic() - started:.0f}"
    if built.returncode:
        return [variant, "-", "-", seconds, "not built", "-"]
    about = json.loads(built.stdout)
    size = about["size"] / 10**6
    row = [variant, f"{size:.0f}", f"{about['rootfs'] / 10**6:.0f}", seconds]
    started = time.monotonic()
    tried = subprocess.run([*COMMAND, "test", Path(about["path"])], stdout=subprocess.DEVNULL, check=False)
    result = "failed" if tried.returncode else "passed"
    if size > LARGEST.get(variant, size):
        result = f"larger than {LARGEST[variant]} MB"
    return [*row, result, f"{time.monotonic() - started:.0f}"]


if __name__ == "__main__":
    sys.exit(main())
