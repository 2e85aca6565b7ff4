"""Where packages come from besides the usual registry: the places in pip's settings, which uv does not read."""

from __future__ import annotations

import configparser
import hashlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A build for the CPU needs none of these, and a build for another CUDA needs others.
_OF_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def find_links(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the folders and pages where pip looks for files, from its environment variable or its settings."""
    given = environment.get("PIP_FIND_LINKS")
    if given is not None:
        return given.split()
    found: list[str] = []
    for path in _settings_files(environment):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            found = parser.get(section, "find-links", fallback=" ".join(found)).split()
    return found


def _settings_files(environment: Mapping[str, str]) -> list[Path]:
    """Return pip's settings files, the weakest first (pip's user guide, "Configuration Files")."""
    home = Path(environment.get("HOME", "~")).expanduser()
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        user / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    return [*paths, Path(named)] if (named := environment.get("PIP_CONFIG_FILE")) else paths


def local_torch(links: Sequence[str], python: str = "", machine: str = "") -> Path | None:
    """Return the newest build of PyTorch that lies in one of these folders, for this Python (311) and this machine.

    `python` and `machine` name others.
    """
    tag = f"-cp{python or f'{sys.version_info.major}{sys.version_info.minor}'}-"
    machine = f"_{machine or platform.machine()}.whl"
    wheels = [path for link in links if Path(link).is_dir() for path in Path(link).glob("torch-*.whl")]
    fitting = [path for path in wheels if tag in path.name and path.name.endswith(machine)]
    return max(fitting, key=_release, default=None)


def with_torch(listed: str, wheel: Path) -> str:
    """Return a list of pinned packages with this build of PyTorch in place of the registry's and its dependencies.

    The hash is that of the file itself: a user who tells pip to search a folder trusts its content.
    """
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{without_torch(listed)}torch @ {wheel.absolute().as_uri()} --hash=sha256:{digest}\n"


def without_torch(listed: str) -> str:
    """Return a list of pinned packages without PyTorch and what only the registry's build of it needs."""
    packages = re.split(r"\n(?=\S)", listed.strip())
    return "".join(f"{package}\n" for package in packages if not _OF_TORCH.match(package))


def torch_release(listed: str) -> str:
    """Return the release of PyTorch in a list of pinned packages, or an empty text."""
    found = re.search(r"^torch==([\w.]+)", listed, re.MULTILINE)
    return found[1] if found else ""


def _release(wheel: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", wheel.name.split("-")[1])]
