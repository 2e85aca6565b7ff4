"""Where packages come from besides the usual registry: what pip is set to use, for uv does not read pip's settings."""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def torch_options(links: Sequence[str]) -> list[list[str]]:
    """Return the options for uv with which to install PyTorch, the best first.

    A build of it that pip would find is taken; else that for this machine's GPU or CPU, which PyTorch has a registry
    of its own for; else, where that cannot be reached, the large one of the usual registry.
    """
    if any(Path(link).is_dir() and any(Path(link).glob("torch-*.whl")) for link in links):
        return [[]]
    return [["--torch-backend", "auto"], []]
