"""The files of an app, as a SuperLink takes them to start a run, without a `flwr run` that imports Flower first."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from oneflower.cloud.app_copy import packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MOST = 8 * 2**20  # bytes: Flower takes no larger app
_MOST_FILES = 1000


def app_files(app: Path, components: Mapping[str, str]) -> dict[str, bytes] | None:
    """Return the files of an app by name, or None if `flwr run` should look at it.

    It should if there is too much of it, and if a component is not simply a name in a module of it. `flwr run` finds
    out whether it is there at all.
    """
    files: dict[str, bytes] = {}
    size = 0
    for path in packed(app):
        files[path.relative_to(app).as_posix()] = content = path.read_bytes()
        size += len(content)
        if size > _MOST or len(files) > _MOST_FILES:
            return None
    return files if all(_has(files, components.get(name, "")) for name in ("serverapp", "clientapp")) else None


def _has(files: Mapping[str, bytes], component: str) -> bool:
    module, _, name = component.partition(":")
    path = module.replace(".", "/")
    content = files.get(f"{path}.py", files.get(f"{path}/__init__.py"))
    try:
        return content is not None and name in set(_names(ast.parse(content)))
    except (SyntaxError, ValueError):
        return False


def _names(module: ast.Module) -> Iterator[str]:
    """Yield the names that the statements of a module define, where they are not within others."""
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
