"""Flower apps: the pre-built ones by name, a user's own by folder; each is checked before anything is sent."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.cloud.dependencies import check_lines
from oneflower.cloud.overrides import flatten, read
from oneflower_appliance.app_packages import Declaration
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.setting_rules import precision_problem, strategy_problem
from oneflower_appliance.settings import run_config_keys
from oneflower_appliance.use_cases import FRAMEWORKS, USE_CASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.overrides import Overrides
    from oneflower.cloud.runconfig import Value

_STARTS = re.compile(r"\b(start_server|start_client|start_numpy_client|start_simulation)\(")
_ROUNDS = PARAMETERS["FL_NUM_ROUNDS"].key


@dataclass(frozen=True)
class App:
    """A Flower app: its folder, its defaults for the run config, what it declares to need, and its two components."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    declaration: Declaration
    prebuilt: bool
    components: Mapping[str, str]

    def run_config(self, form: Mapping[str, str], rounds: int | None, given: Overrides) -> dict[str, Value]:
        """Return what overrides the app's own configuration; each value has the type of the app's own value.

        `run_config_keys` says which variables of the form count.
        Raises `OneflowerError` for a key that the app does not have, and for a value that is not of its type.
        """
        values: dict[str, str] = {}
        if self.prebuilt:
            values = {key: form[name] for name, key in run_config_keys(form, self.config).items()}
        if rounds is not None:
            values[_ROUNDS] = str(rounds)
        merged = read(values, self.config) | read(given, self.config)
        self._check_framework(merged)
        return merged

    def _check_framework(self, values: Mapping[str, Value]) -> None:
        """Raise `OneflowerError` for a value of the form that the framework of this pre-built app cannot train with."""

        def value(name: str) -> str:
            return str(values.get(PARAMETERS[name].key, ""))

        framework = value("ML_FRAMEWORK")
        if not self.prebuilt or framework not in FRAMEWORKS:
            return
        for name, find_problem, choice in (
            ("FL_STRATEGY", strategy_problem, "strategy=NAME"),
            ("FL_MIXED_PRECISION", precision_problem, "mixed-precision=no"),
        ):
            if (said := value(name)) and (problem := find_problem(said, framework)):
                raise OneflowerError(f"{self.name}: {name} {problem}", f"Choose it: `--config {choice}`.")


def load_app(name: str, form: Mapping[str, str]) -> App:
    """Return the pre-built app `name` or the one in the folder `name`. Raises `OneflowerError`."""
    if (use_case := USE_CASES.get(name)) is not None:
        if form.get("ML_FRAMEWORK", use_case.frameworks[0]) not in use_case.frameworks:
            raise OneflowerError(
                f"{name} cannot train with ML_FRAMEWORK={form['ML_FRAMEWORK']}; it can with "
                f"{', '.join(use_case.frameworks)}.",
                f"Deploy a federation with `--set ML_FRAMEWORK={use_case.frameworks[0]}`.",
            )
        return _read(use_case.folder, prebuilt=True)
    folder = Path(name)
    if not folder.is_dir():
        raise OneflowerError(
            f"{name!r} is neither a folder nor a bundle (.fab) nor a pre-built app.",
            f"Pre-built apps: {', '.join(USE_CASES)}. Write a new one with `oneflower new NAME`.",
            ExitCode.NOT_FOUND,
        )
    return _read(folder.resolve(), prebuilt=False)


def _read(folder: Path, *, prebuilt: bool) -> App:
    path = folder / "pyproject.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _not_an_app(folder, f"it has no pyproject.toml{_script(folder)}") from error
    except (OSError, ValueError) as error:
        raise _not_an_app(folder, f"its pyproject.toml cannot be read: {error}") from error
    app = content.get("tool", {}).get("flwr", {}).get("app", {})
    components = app.get("components", {})
    for part in ("serverapp", "clientapp"):
        if not re.fullmatch(r"[\w.]+:\w+", str(components.get(part, ""))):
            named = f"its pyproject.toml names no {part} in [tool.flwr.app.components]{_old_table(content)}"
            raise _not_an_app(folder, named)
    project = content.get("project", {})
    declaration = Declaration.read(content)
    try:
        check_lines(declaration.dependencies)
    except ValueError as error:
        raise _not_an_app(folder, str(error)) from error
    config = flatten(app.get("config", {}))
    return App(project.get("name", folder.name), folder, config, declaration, prebuilt, components)


def _script(folder: Path) -> str:
    """Return which of its scripts starts Flower itself, as was usual before there were apps, or an empty text."""
    for path in sorted(folder.glob("*.py")):
        with suppress(OSError, ValueError):
            if found := _STARTS.search(path.read_text(encoding="utf-8")):
                return (
                    f", and {path.name} calls {found[1]}, as before there were apps: move the strategy into a "
                    "server_fn for ServerApp(server_fn=...), the client into a client_fn for ClientApp(client_fn=...)"
                )
    return ""


def _old_table(content: Mapping[str, Any]) -> str:
    """Return how to rename the table with the components that Flower read before 1.11, or an empty text."""
    for tables in (("tool", "flwr", "components"), ("flower", "components")):
        found: Any = content
        for table in tables:
            found = found.get(table) if isinstance(found, dict) else None
        if found:
            return f": rename its table [{'.'.join(tables)}]"
    return ""


def _not_an_app(folder: Path, why: str) -> OneflowerError:
    return OneflowerError(f"{folder} is not a Flower app: {why}.", "Write a new one with `oneflower new NAME`.")
