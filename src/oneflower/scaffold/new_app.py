"""Writes the folder of a new Flower app, which trains at once: on a federation, and with stock Flower.

The files are in `templates/`: those in `common/`, and those of one framework. `string.Template` fills in the names.
"""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

# How each framework is called, and the lines of its packages in pyproject.toml. scikit-learn brings the digits.
_TITLES = {"sklearn": "scikit-learn", "pytorch": "PyTorch"}
_PACKAGES = {"sklearn": ("scikit-learn>=1.5",), "pytorch": ("scikit-learn>=1.5", "torch>=2.4")}
FRAMEWORKS = tuple(_TITLES)
_LONGEST = 32  # what Flower accepts as the name of an app (flwr.supercore.utils.is_valid_name)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
_IMPORTED = {"flwr", "numpy", "oneflower", "oneflower_appliance", "pytest", "sklearn", "tests", "torch"}
_SUFFIX = ".tmpl"


@dataclass(frozen=True)
class NewApp:
    """An app that was written: its folder, and its files relative to it."""

    name: str
    framework: str
    folder: Path
    files: tuple[Path, ...]


def write_app(name: str, framework: str, where: Path) -> NewApp:
    """Write the app `name` for a framework into a new folder in `where`. Raises `OneflowerError`, and writes nothing.

    The name is that of the folder, the project and, with underscores, the Python package.
    """
    package = _package(name)
    folder = where / name
    if folder.exists() or folder.is_symlink():
        raise OneflowerError(f"{folder} exists already.", "Choose another name.", ExitCode.CONFLICT)
    names = {
        "name": name,
        "package": package,
        "framework": framework,
        "title": _TITLES[framework],
        "requirements": "\n".join(f'    "{line}",' for line in _PACKAGES[framework]),
    }
    root = files(__package__) / "templates"
    texts = {
        Path(_filled(str(path).removesuffix(_SUFFIX), names)): _filled(template.read_text(encoding="utf-8"), names)
        for kind in ("common", framework)
        for path, template in _templates(root / kind)
    }
    _write(folder, texts)
    return NewApp(name, framework, folder, tuple(sorted(texts)))


def _filled(text: str, names: Mapping[str, str]) -> str:
    return Template(text).substitute(names)


def _write(folder: Path, texts: Mapping[Path, str]) -> None:
    """Write all files, or none."""
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OneflowerError(
            f"Cannot write in {folder.parent}: {error.strerror}.",
            "Go to a folder where you may write.",
            ExitCode.ENVIRONMENT,
        ) from error
    try:
        for path, text in texts.items():
            write_atomic(staging / path, text, SHARED)
        staging.chmod(0o755)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _package(name: str) -> str:
    """Return the Python package of an app. Raises `OneflowerError` unless Flower, pip and Python accept the name."""
    package = name.replace("-", "_")
    why = ""
    if not _NAME.fullmatch(name):
        why = "it needs letters and digits of ASCII, parts joined by hyphens, and a letter first"
    elif len(name) > _LONGEST:
        why = f"Flower accepts at most {_LONGEST} characters"
    elif name in USE_CASES:
        why = "a pre-built app has it"
    elif keyword.iskeyword(package) or package.lower() in sys.stdlib_module_names | _IMPORTED:
        why = f"Python has another meaning for {package}"
    if why:
        raise OneflowerError(
            f"{name!r} cannot be the name of an app: {why}.", "Choose another, such as my-app.", ExitCode.USAGE
        )
    return package


def _templates(folder: Traversable, under: Path = Path()) -> Iterator[tuple[Path, Traversable]]:
    for entry in folder.iterdir():
        path = under / entry.name
        if entry.is_dir():
            yield from _templates(entry, path)
        elif entry.name.endswith(_SUFFIX):
            yield path, entry
