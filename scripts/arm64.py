"""Check that everything that a machine carries is there for arm64, too. No such machine is needed.

For each pinned list: each package has a wheel for Debian's Python on aarch64, and its hash is in the list. A framework
may lack one only if `FRAMEWORKS` says that it is `x86_only`. Then the Debian packages of the image are resolved with
Debian's own metadata. The table has the sizes of what an image downloads, in MB, for both architectures; PyTorch is the
registry's build for GPUs. The lists of images with NVIDIA's driver are for amd64 only, and checked for that. It needs
the package registry, a Debian mirror and apt, but not root.

usage: python scripts/arm64.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from uv import find_uv_bin

from oneflower.images import base, wheels
from oneflower.images.spec import KEYRING, LEFT_OUT, MIRROR, PACKAGES, PYTHON
from oneflower.runtimes.runtime import GPU, NO_FRAMEWORK, PINNED
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.use_cases import FRAMEWORKS

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # as Debian and as Python call them
_BYTES = re.compile(r"^'\S+' \S+ (\d+)", re.MULTILINE)  # of a file, as apt prints it
_COMPILE = (
    "--quiet", "pip", "compile", "--no-deps", "--universal", "--python-version", PYTHON, "--only-binary", ":all:",
    "--format", "pylock.toml", "--no-header", "-",
)  # fmt: skip


def resolve(listed: str) -> dict[str, Any]:
    """Return all wheels that the package registry has for a pinned list, as PEP 751 writes them."""
    command = [find_uv_bin(), *_COMPILE]
    return tomllib.loads(subprocess.run(command, input=listed, stdout=subprocess.PIPE, text=True, check=True).stdout)


def wheels_for(machine: str, locked: dict[str, Any], listed: str) -> tuple[int, list[str]]:
    """Return the bytes of the wheels that an image for this machine has, and a sentence for each that is missing."""
    size, lacking = 0, []
    for package in locked["packages"]:
        marker = package.get("marker")
        if marker and not Marker(marker).evaluate({**wheels.MACHINE, "platform_machine": machine}):
            continue
        try:
            wheel = wheels.choose(package, {}, machine)
        except OneflowerError as error:
            lacking.append(error.message)
            continue
        size += 0 if wheel.name in LEFT_OUT else wheel.size
        if f"--hash=sha256:{wheel.sha256}" not in listed:
            lacking.append(f"{wheel.file} is not in the list by its hash.")
    return size, lacking


def debian(architecture: str, folder: Path) -> tuple[int, int]:
    """Return how many Debian packages an image has, and their bytes. Raises `CalledProcessError` if one is missing."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    sources = (line.replace("deb ", f"deb [signed-by={KEYRING}] ") for line in base.sources(MIRROR))
    (folder / "sources").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    settings = {
        "APT::Architecture": architecture, "APT::Architectures::": architecture, "APT::Install-Recommends": "false",
        "Dir::State": folder, "Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache", "Dir::Etc::sourcelist": folder / "sources",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null", "Acquire::Languages": "none",
        "APT::Sandbox::User": "", "APT::Update::Error-Mode": "any",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    wanted = [name.replace("linux-image-amd64", f"linux-image-{architecture}") for name in PACKAGES]
    command = [*apt, "install", "--print-uris", "--yes", "?essential", *wanted]
    found = _BYTES.findall(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return len(found), sum(map(int, found))


def check_list(path: Path) -> bool:
    """Print the line of a pinned list. Return whether it is as `FRAMEWORKS` says."""
    listed = path.read_text(encoding="utf-8")
    locked = resolve(listed)
    if path.stem.endswith(GPU):
        size, lacking = wheels_for(ARCHITECTURES["amd64"], locked, listed)
        print(f"{path.stem:26} {size / 10**6:9.1f}  no image for arm64", *lacking, sep="\n    " if lacking else "")
        return not lacking
    found = {name: wheels_for(machine, locked, listed) for name, machine in ARCHITECTURES.items()}
    print(f"{path.stem:26}", *(f"{size / 10**6:9.1f}" for size, _ in found.values()))
    for _, lacking in found.values():
        print("".join(f"    {line}\n" for line in lacking), end="")
    framework = path.stem.split("-", 2)[2]
    x86_only = framework != NO_FRAMEWORK and FRAMEWORKS[framework].x86_only
    return not found["amd64"][1] and bool(found["arm64"][1]) == x86_only


def check() -> None:
    """Print the table. Ends with a sentence when something is missing."""
    print(f"{'wheels, MB':26}", *(f"{name:>9}" for name in ARCHITECTURES))
    wrong = [path.stem for path in sorted(PINNED.glob("flwr-*.txt")) if not check_list(path)]
    with tempfile.TemporaryDirectory() as scratch:
        debs = [debian(name, Path(scratch) / name) for name in ARCHITECTURES]
    print(f"{'Debian packages, MB':26}", *(f"{size / 10**6:9.1f}" for _, size in debs))
    print(f"{'Debian packages':26}", *(f"{count:9}" for count, _ in debs))
    sys.exit(
        f"These lists lack wheels, or are complete where `x86_only` says that they are not: {', '.join(wrong)}."
        if wrong
        else 0
    )


if __name__ == "__main__":
    try:
        check()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{Path(error.cmd[0]).name} failed: see its message above, and that its registry or mirror answers.")
