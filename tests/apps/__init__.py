"""Small Flower apps as people write them, of four kinds, each in one file: read here, and written as a folder.

Each file is the app's `server_app.py`, with what else it has after lines such as `# --- client_app.py`. Its first line
says what the app shows. Lines that begin with `#:` are TOML: `config` and `dependencies` of its pyproject.toml, and what
is expected of a run, where that is not a success. `frames/` has what the apps share.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = {
    "message": "on the Message API, with a strategy",
    "legacy": "on the legacy API",
    "grid": "without a strategy",
    "needs": "with packages of their own",
}
_SECTION = re.compile(r"^# --- (\S+)\n", re.MULTILINE)

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = ["flwr[simulation]>=1.41"{dependencies}]
{more}
[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "{module}.server_app:app"
clientapp = "{module}.client_app:app"

[tool.flwr.app.config]
{config}"""


@dataclass(frozen=True, eq=False)
class App:
    """An app: its kind, its name, what it shows, what its file says about it, and its files by path."""

    kind: str
    name: str
    about: str
    says: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The name of its Python package."""
        return self.name.replace("-", "_")

    @property
    def refused(self) -> str:
        """Words of the sentence with which oneflower refuses it; an empty text if it runs."""
        return self.says.get("refused", "")

    def write(self, folder: Path) -> Path:
        """Write it as a folder in `folder`, and return that."""
        root = folder / self.name
        project = self.says.get("pyproject", True)
        package = root / self.module if project else root
        for path, text in self.files.items():
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            (package / path).write_text(text, encoding="utf-8")
        if project:
            (root / "pyproject.toml").write_text(self.pyproject(), encoding="utf-8")
        return root

    def pyproject(self) -> str:
        """Return the text of its pyproject.toml."""
        needs = "".join(f', "{line}"' for line in ["scikit-learn", *self.says.get("dependencies", ())])
        config = "".join(f"{name} = {_toml(value)}\n" for name, value in self.says.get("config", {}).items())
        return PROJECT.format(
            name=self.name, module=self.module, dependencies=needs, config=config, more=self.says.get("more", "")
        )


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def find(kind: str, name: str) -> App:
    """Return one of the apps."""
    source = (HERE / kind / f"{name}.py").read_text(encoding="utf-8")
    about = source.splitlines()[0].strip('"')
    says = tomllib.loads("\n".join(line[3:] for line in source.splitlines() if line.startswith("#: ")))
    first, *rest = _SECTION.split(source)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    frame = "legacy" if kind == "legacy" else "message"
    files = {"task.py": _frame("task")}
    if says.get("pyproject", True):
        files |= {"__init__.py": "", "client_app.py": _frame(f"{frame}_client"), "server_app.py": first}
    return App(kind, name, about, says, files | sections)


def find_all() -> list[App]:
    """Return all apps, by kind and name."""
    return [find(kind, path.stem) for kind in KINDS for path in sorted((HERE / kind).glob("*.py"))]


def _frame(name: str) -> str:
    return (HERE / "frames" / f"{name}.py").read_text(encoding="utf-8")
