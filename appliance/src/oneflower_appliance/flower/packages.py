"""Lets a task find the packages that were installed for its app (`oneflower_appliance.app_packages`).

They come last on the path, so they add packages and cannot replace one of Flower's or of the runtime's. Only the
process of this task has them: other apps on the same machine may have others.
"""

from __future__ import annotations

import functools
import io
import site
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

from oneflower_appliance.app_packages import Declaration, packages_of

if TYPE_CHECKING:
    from pathlib import Path


def find_packages_in(folder: Path, task: Any) -> None:
    """Make the task of this process, one of Flower's modules, find its app's packages in a runtime's folder."""
    install = task.install_from_fab

    @functools.wraps(install)
    def installing(fab: bytes, *args: Any, **kwargs: Any) -> Any:
        installed = install(fab, *args, **kwargs)
        if packages := packages_of(folder, declared_in(fab)):
            site.addsitedir(str(packages))
        return installed

    task.install_from_fab = installing


def declared_in(fab: bytes) -> Declaration:
    """Return what an app declares, as Flower sends it: a ZIP archive with its pyproject.toml."""
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        return Declaration.read(tomllib.loads(archive.read("pyproject.toml").decode()))
