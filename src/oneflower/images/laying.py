"""Lays folders of ours into an image, with the same permissions whatever those of the checkout are."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_SHARED, _EXECUTABLE = 0o644, 0o755


def lay_folder(source: Path, target: Path, executable: Collection[str] = ()) -> None:
    """Copy all files of a folder. `executable` names those that can be run. Folders that are there stay as they are."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if "__pycache__" in name.parts:
            continue
        if path.is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            (target / name).chmod(_EXECUTABLE if str(name) in executable else _SHARED)


@contextmanager
def usual_permissions() -> Iterator[None]:
    """Give what is written meanwhile the usual permissions, whatever the user's umask is."""
    earlier = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(earlier)
