"""The packages that were installed for an app, beside the runtime of the machine on which they are used.

Each runtime may have a folder for them. In it, `packages-HASH` holds packages and is named by its content: their names,
releases and hashes. `app-HASH.json` names the packages of an app, and is itself named by what the app declares. The
operator's side writes both. A task finds its app's packages by the declaration in the app that it was sent, so no
message and no run config has to name them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.files import write_atomic
from oneflower_appliance.packages import normalised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from packaging.requirements import Requirement

_NAME = re.compile(r"packages-[0-9a-f]{16}")
_OTHERS_WRITE = 0o022


@dataclass(frozen=True)
class Declaration:
    """What an app declares in its pyproject.toml: its name, and the lines of its dependencies (PEP 508)."""

    app: str
    dependencies: tuple[str, ...]

    @classmethod
    def read(cls, pyproject: Mapping[str, Any]) -> Declaration:
        """Return what the content of a pyproject.toml declares."""
        project = pyproject.get("project", {})
        return cls(str(project.get("name", "")), tuple(map(str, project.get("dependencies", ()))))

    def file(self, folder: Path) -> Path:
        """Return the file in a runtime's folder that names this app's packages. It may not exist."""
        content = json.dumps([self.app, sorted(self.dependencies)])
        return folder / f"app-{short_hash(content)}.json"


@dataclass(frozen=True)
class Choice:
    """The folder with the packages of an app, by name, and the SHA-256 of the uv.lock that they follow, if any."""

    app: str
    packages: str
    lock: str

    def write(self, path: Path) -> None:
        """Write it for the tasks. Raises `OneflowerError`."""
        write_atomic(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Choice | None:
        """Return what `write` wrote, None if there is nothing valid."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if _NAME.fullmatch(str(found.packages)) else None


def choices(folder: Path) -> list[Choice]:
    """Return the choices of all apps in a runtime's folder, in the order of the apps' names."""
    found = filter(None, map(Choice.read, folder.glob("app-*.json")))
    return sorted(found, key=lambda choice: (choice.app, choice.packages))


def release_of(name: str, packages: Mapping[str, str]) -> str | None:
    """Return the release of a package among `packages`, None if it is not there. Names are normalised.

    A build for the CPU only, such as xgboost-cpu, is the same package: it has the same modules and releases.
    """
    return packages.get(name, packages.get(f"{name}-cpu"))


def excluded_by(wanted: Requirement, packages: Mapping[str, str]) -> str:
    """Return which of `packages` a requirement excludes, as name==release, or an empty text.

    `packages` has releases by normalised name. One whose release is not known, an empty text, is not excluded.
    """
    name = normalised(wanted.name)
    release = release_of(name, packages)
    return f"{name}=={release}" if release and not wanted.specifier.contains(release, prereleases=True) else ""


def short_hash(content: str) -> str:
    """Return the part of a SHA-256 that is in a name: 64 bits, in hexadecimal digits."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def packages_name(listed: str) -> str:
    """Return the name of the folder with the packages of a list."""
    return f"packages-{short_hash(listed)}"


def packages_of(folder: Path, declaration: Declaration) -> Path | None:
    """Return the folder with the packages of an app, if it has any and nobody else could have changed them."""
    choice = Choice.read(declaration.file(folder))
    if choice is None:
        return None
    found = folder / choice.packages
    try:
        state = found.lstat()
    except OSError:
        return None
    return found if state.st_uid == os.geteuid() and not state.st_mode & _OTHERS_WRITE else None
