"""Compiles the Python code of an image, so that a boot reads only bytecode and checks no dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.images.spec import PYTHON
from oneflower.images.tools import tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Not meant to be compiled: templates, code that is wrong on purpose, and code for a newer Python (py312_intrinsics.py).
# What only a compiler of models uses, which needs a compiler of C++, or PyTorch's own tests, is read from its source.
_NOT_COMPILED = (
    r"/(lib2to3/tests|test/bad\w*|templates?|cookiecutter\w*)/|/py3\d\d_\w+\.py$"
    r"|/torch/(_inductor/(codegen|fx_passes|kernel)|testing/_internal)/"
)


def write(root: Path, folders: Sequence[str]) -> None:
    """Compile the folders of an image, named as seen from its root, with the image's own Python, without a chroot."""
    libraries = ":".join(str(root / "usr" / name) for name in ("lib/x86_64-linux-gnu", "lib"))
    python: list[str | Path] = [
        root / "usr/lib64/ld-linux-x86-64.so.2",
        "--library-path",
        libraries,
        root / f"usr/bin/python{PYTHON}",
    ]
    options: list[str | Path] = [
        "-q",
        "-f",
        "-x",
        _NOT_COMPILED,
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        root,
        "-p",
        "/",
    ]
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    for cache in (cache for folder in folders for cache in (root / folder).rglob("__pycache__/*.pyc")):
        cache.unlink()
    present = [root / folder for folder in folders if (root / folder).is_dir()]
    tool([*python, "-S", "-m", "compileall", *options, *present], "compile the image's Python code", environment)
