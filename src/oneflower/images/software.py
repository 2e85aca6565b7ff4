"""Flower, a framework and the appliance in an image: a virtual environment in /opt/oneflower, laid out by hand.

The wheels are those of the pinned list of the runtimes, each checked by its hash. Nothing is built from source and
nothing of the image is run, so that any machine can build for any other.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images import bytecode, trim
from oneflower.images.appliance import SOURCE, installed
from oneflower.images.laying import lay_folder
from oneflower.images.spec import ARCHITECTURE, LEFT_OUT, PLATFORM, PYTHON
from oneflower.images.tools import WITH_US
from oneflower.process import run
from oneflower.runtimes import package_index, runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.images.spec import ImageSpec

PREFIX = "opt/oneflower"
SITE = f"{PREFIX}/lib/python{PYTHON}/site-packages"
_COMMANDS_OF = ("flwr", "oneflower-appliance")
_HINT = "Check that the package registry can be reached and that there is disk space, then try again."
_TORCH_HINT = (
    "Check that PyTorch's index can be reached. Or download its wheel for CPUs and Python "
    f"{PYTHON} elsewhere, and set PIP_FIND_LINKS to its folder."
)
# PyTorch asks for it and does without. It compiles what it runs, and an image has no compiler of C.
_WITHOUT_A_COMPILER = ("triton",)
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # the builds for CPUs, of which no list has the hashes


def listed(spec: ImageSpec) -> str:
    """Return the packages of an image with their hashes. Raises `OneflowerError` when nothing pins them.

    PyTorch is among them if pip is set to find it in a folder. The registry's build, for GPUs, is in an image with
    NVIDIA's driver only.
    """
    text = without(_pinned(spec), LEFT_OUT)
    if spec.gpu:
        return without(text, _WITHOUT_A_COMPILER)
    wheel = _local_torch(spec)
    return package_index.with_torch(text, wheel) if wheel else package_index.without_torch(text)


def _local_torch(spec: ImageSpec) -> Path | None:
    if not package_index.torch_release(_pinned(spec)):
        return None
    return package_index.local_torch(package_index.find_links(), python=PYTHON.replace(".", ""), machine=ARCHITECTURE)


def _pinned(spec: ImageSpec) -> str:
    return runtime.pinned_packages(spec.flower, spec.packages)


def without(text: str, names: tuple[str, ...]) -> str:
    """Return a list of pinned packages without some of them."""
    packages = re.split(r"\n(?=\S)", text.strip())
    return "\n".join(package for package in packages if package.split("==")[0] not in names) + "\n"


def key(spec: ImageSpec) -> str:
    """Return a name for the content of the software, without the appliance's own."""
    own = "".join(Path(module.__file__ or "").read_text(encoding="utf-8") for module in (bytecode, trim))
    torch = package_index.torch_release(_pinned(spec))
    code = Path(__file__).read_text(encoding="utf-8")
    content = f"{PYTHON}\n{PLATFORM}\n{spec.epoch}\n{listed(spec)}\n{spec.added}\n{torch}\n{own}\n{code}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def install(spec: ImageSpec, root: Path, scratch: Path) -> None:
    """Put the environment with all wheels into the root of an image that has the base already."""
    packages = scratch / "packages.txt"
    packages.write_text(listed(spec), encoding="utf-8")
    site = root / SITE
    site.mkdir(parents=True)
    links = [word for link in package_index.find_links() for word in ("--find-links", link)]
    wanted = [*(() if spec.gpu else links), "--require-hashes", "--requirement", str(packages)]
    install_wheels(site, wanted, f"install Flower {spec.flower} and {spec.packages}", _HINT)
    release = package_index.torch_release(_pinned(spec))
    if release and not spec.gpu and not _local_torch(spec):
        install_wheels(site, ["--index", TORCH_INDEX, f"torch=={release}"], f"install PyTorch {release}", _TORCH_HINT)
    folder = root / PREFIX
    (folder / "bin").mkdir()
    for name in ("python", "python3", f"python{PYTHON}"):
        (folder / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    (folder / "pyvenv.cfg").write_text(settings, encoding="ascii")
    trim.python(root)
    _add(spec, root, scratch, links)
    bytecode.write(root, [SITE])


def _add(spec: ImageSpec, root: Path, scratch: Path, links: Sequence[str]) -> None:
    """Install the packages besides those of the variant. They are not trimmed: nobody has tried them without a part."""
    if not spec.added:
        return
    more = scratch / "more.txt"
    more.write_text("".join(f"{line}\n" for line in spec.added), encoding="utf-8")
    wanted = [*links, "--require-hashes", "--requirement", str(more)]
    install_wheels(root / SITE, wanted, "install more packages", _HINT)
    trim.traces(root)


def install_wheels(site: Path, wanted: Sequence[str], what: str, hint: str) -> None:
    """Install wheels for the image's Python into the folder `site`, and nothing that they depend on."""
    from uv import find_uv_bin  # noqa: PLC0415 - only needed here

    command = [
        *WITH_US, find_uv_bin(), "--quiet", "--directory", str(site), "pip", "install", "--target", str(site),
        "--no-deps", "--python-version", PYTHON, "--python-platform", PLATFORM, "--only-binary", ":all:",
        "--link-mode", "copy", *wanted,
    ]  # fmt: skip
    run(command, what, hint, {"UV_SYSTEM_CERTS": "1", **os.environ})


def lay_appliance(root: Path) -> None:
    """Put the appliance's own package into the environment of an image, and the commands of it and of Flower."""
    site = root / SITE
    lay_folder(SOURCE, site / SOURCE.name)
    found = installed()
    about = site / f"oneflower_appliance-{found.version}.dist-info"
    about.mkdir()
    # What the package could also be installed with is left out: that is as old as the installation on this machine.
    fields = "".join(f"{name}: {found.metadata[name]}\n" for name in ("Name", "Version", "License-Expression"))
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\n{fields}", encoding="utf-8")
    (about / "entry_points.txt").write_text(found.read_text("entry_points.txt") or "", encoding="utf-8")
    (about / "INSTALLER").write_text("oneflower\n", encoding="ascii")
    bytecode.write(root, [f"{SITE}/{SOURCE.name}"])
    for name in _COMMANDS_OF:
        for points in sorted(site.glob(f"{name.replace('-', '_')}-*.dist-info/entry_points.txt")):
            _write_commands(root / PREFIX / "bin", points.read_text(encoding="utf-8"))


class _EntryPoints(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr  # a command's name, whose case matters


def _write_commands(folder: Path, points: str) -> None:
    parser = _EntryPoints(delimiters=("=",))
    parser.read_string(points)
    for command, target in parser.items("console_scripts") if parser.has_section("console_scripts") else ():
        module, _, function = target.strip().partition(":")
        path = folder / command
        path.write_text(
            f"#!/{PREFIX}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="ascii",
        )
        path.chmod(0o755)
