"""Writes Flower apps for tests: the one place of their pyproject.toml."""

from __future__ import annotations

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = [{needs}]

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "{name}.{server}"
clientapp = "{name}.{client}"

[tool.flwr.app.config]
{config}"""


def pyproject(name, *, server="server_app:app", client="client_app:app", needs=("flwr>=1.41", "numpy"), config=""):
    """Return the text of the pyproject.toml of an app whose package is `name`. `config` is TOML."""
    quoted = ", ".join(f'"{need}"' for need in needs)
    return _PROJECT.format(name=name, server=server, client=client, needs=quoted, config=config)


def write_app(folder, name, modules, **project):
    """Write an app into `folder`, and return that. `modules` is the text of each of its modules, by its name."""
    package = folder / name
    package.mkdir(parents=True)
    for module, text in {"__init__": "", **modules}.items():
        (package / f"{module}.py").write_text(text, encoding="utf-8")
    (folder / "pyproject.toml").write_text(pyproject(name, **project), encoding="utf-8")
    return folder
