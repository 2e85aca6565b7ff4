"""A copy of an app for `flwr run`, where its pyproject.toml names federations, as was usual before Flower 1.25.

Flower would take over the settings of these federations, and rewrite the user's file. They are ignored instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

if TYPE_CHECKING:
    from collections.abc import Iterator

# What Flower packs of an app: files of these types, and `.gitignore`, which says what else to leave out.
PACKED = (".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl")
PACKED_NAMES = ("LICENSE", ".gitignore")
_NOT_PACKED = (".git", ".venv", "__pycache__")
_PROJECT = "pyproject.toml"


def names_federations(app: Path) -> bool:
    """Return whether the pyproject.toml of an app has [tool.flwr.federations]."""
    return "federations" in _settings(_content(app))


@contextmanager
def without_federations(app: Path) -> Iterator[Path]:
    """Yield the folder of an app if it names no federations, else a copy of what Flower packs of it, without them."""
    content = _content(app)
    if _settings(content).pop("federations", None) is None:
        yield app
        return
    with tempfile.TemporaryDirectory(prefix="oneflower-") as place:
        folder = Path(place)
        _copy(app, folder)
        (folder / _PROJECT).write_text(tomli_w.dumps(content), encoding="utf-8")
        yield folder


def _content(app: Path) -> dict[str, Any]:
    return tomllib.loads((app / _PROJECT).read_text(encoding="utf-8"))


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = content["tool"]["flwr"]
    return settings


def packed(app: Path) -> Iterator[Path]:
    """Yield the files of an app that Flower may pack."""
    for place, folders, files in os.walk(app):
        folders[:] = [name for name in folders if name not in _NOT_PACKED]
        for source in (Path(place) / name for name in files):
            if not source.is_symlink() and (source.suffix in PACKED or source.name in PACKED_NAMES):
                yield source


def _copy(app: Path, folder: Path) -> None:
    for source in packed(app):
        target = folder / source.relative_to(app)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
