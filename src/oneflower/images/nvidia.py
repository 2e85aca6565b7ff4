"""NVIDIA's driver in an image: Debian's packages, and the kernel's modules, which are built for the image's kernel.

The modules are compiled in a root of their own, so that no compiler and no headers ever come into the image.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from oneflower.images.scratch import remove
from oneflower.images.tools import tool
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SERIES = "535"  # of the suite: it runs what is built for CUDA 12
COMPONENTS = ("contrib", "non-free", "non-free-firmware")
PACKAGES = (
    "libcuda1", "libnvidia-ptxjitcompiler1", "libnvidia-ml1", "nvidia-smi", "nvidia-modprobe", "firmware-nvidia-gsp",
)  # fmt: skip
SOURCES = "nvidia-kernel-dkms"  # the package with the sources of the modules
MODULES = ("nvidia", "nvidia-uvm")  # those that CUDA needs; the others are for displays and for RDMA
_FOLDER = "kernel/drivers/gpu/nvidia"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_NEEDED_LIBRARIES = ("libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler")
_FIRMWARE = "usr/lib/firmware/nvidia"
_HINT = "Build with --no-cache. If it stays so, Debian's kernel and its driver do not fit each other today."

# What compiles the modules, as mmdebstrap's hook: apt outside takes the sources from the mirror and checks them.
_COMPILE = """set -eu
cd "$1/usr/src"
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq download {sources}={version}
dpkg-deb -x {sources}_*.deb "$1"
chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
    make -j{jobs} -C /usr/src/nvidia-current-{driver} modules KERNEL_UNAME={kernel} NV_KERNEL_MODULES="{modules}" \
    >log 2>&1 || {{ tail -n 8 log >&2; exit 1; }}
"""


def package_version(root: Path) -> str:
    """Return the version of the driver's packages in an image, or an empty text if it has no driver."""
    status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8")
    found = re.search(rf"^Package: {PACKAGES[0]}\n(?:.+\n)*?Version: (\S+)", status, re.MULTILINE)
    return found[1] if found else ""


def driver_version(root: Path) -> str:
    """Return the version of the driver in an image as NVIDIA writes it, or an empty text if it has none."""
    return package_version(root).partition("-")[0]


def add_modules(root: Path, scratch: Path, install: Callable[[Path, tuple[str, ...], str], None], jobs: int) -> None:
    """Build the modules for the kernel of an image and put them into it. Raises `OneflowerError`.

    `install` makes a root with packages of Debian in a folder, and runs a script in it.
    """
    version, kernel = package_version(root), _kernel(root)
    driver = driver_version(root)
    if driver.partition(".")[0] != SERIES:
        raise OneflowerError(
            f"Debian has the driver {driver} now, and this version of oneflower knows that of the series {SERIES}.",
            "Build without --gpu, or use a newer version of oneflower.",
            ExitCode.ENVIRONMENT,
        )
    workshop = scratch / "workshop"
    script = _COMPILE.format(
        sources=SOURCES, version=version, driver=driver, kernel=kernel, modules=" ".join(MODULES), jobs=jobs
    )
    try:
        install(workshop, (f"linux-headers-{kernel}", "make"), script)
        target = root / "usr/lib/modules" / kernel / _FOLDER
        target.mkdir()
        for name in MODULES:
            shutil.copyfile(workshop / f"usr/src/nvidia-current-{driver}/{name}.ko", target / f"{name}.ko")
            tool(["strip", "--strip-debug", target / f"{name}.ko"], "take out debugging information")
        licence = root / "usr/share/doc" / SOURCES
        licence.mkdir()
        shutil.copyfile(workshop / "usr/share/doc" / SOURCES / "copyright", licence / "copyright")
    finally:
        remove(workshop)
    tool(["depmod", "-b", root, kernel], "list the kernel's modules")
    (root / "usr/bin/nvidia-modprobe").chmod(0o755)  # no machine needs it with the rights of root for everybody


def check(root: Path) -> None:
    """Raise `OneflowerError` unless modules, libraries and firmware are of one release, and fit the image's kernel."""
    kernel, driver = _kernel(root), driver_version(root)
    folder = root / "usr/lib/modules" / kernel
    made_for = _about("vermagic", next(folder.glob("kernel/fs/ext4/ext4.ko*")))
    for name in MODULES:
        found = next((folder / _FOLDER).glob(f"{name}.ko*"), None)
        if found is None:
            raise _unfit(f"the module {name} is missing")
        if (magic := _about("vermagic", found)) != made_for:
            raise _unfit(f"the module {name} is for {magic!r}, and the kernel is {made_for!r}")
        if (version := _about("version", found)) != driver:
            raise _unfit(f"the module {name} is {version}, and the libraries are {driver}")
    for name in _NEEDED_LIBRARIES:
        library = _followed(root, root / _LIBRARIES / f"{name}.so.1")
        if library.name != f"{name}.so.{driver}" or not library.is_file():
            raise _unfit(f"{name}.so.1 is {library.name}, and the module is {driver}")
    if not list((root / _FIRMWARE / driver).glob("gsp_*.bin")):
        raise _unfit(f"there is no firmware of {driver}")


def _kernel(root: Path) -> str:
    found = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise _unfit(f"there are {len(found)} kernels ({', '.join(found)})")
    return found[0]


def _about(field: str, module: Path) -> str:
    return tool(["modinfo", "-F", field, module], f"read {module.name}").strip()


def _followed(root: Path, path: Path) -> Path:
    """Return where a link of an image leads to, as seen from the image's root."""
    for _ in range(10):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return path


def _unfit(why: str) -> OneflowerError:
    return OneflowerError(f"NVIDIA's driver in the image does not fit: {why}.", _HINT, ExitCode.ENVIRONMENT)
