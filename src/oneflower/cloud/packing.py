"""Packs a ServerApp and a ClientApp that are objects of this process, such as a notebook's, as the folder of an app.

What is defined in the notebook or script, and in modules beside it, goes by value (cloudpickle): as Python's byte code,
which only the same minor release of Python can run. All else goes by name: the machines must have those packages.
cloudpickle itself goes along, so that it is the same one that reads the objects.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.cloud.runconfig import toml_text
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from oneflower.cloud.overrides import Overrides
    from oneflower.cloud.runconfig import Value

_NAME, _PACKAGE = "notebook-app", "notebook_app"
_MOST = 5 << 20  # bytes of one object; Flower's limit for a whole app is 10 MiB
_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "1.0.0"
dependencies = {dependencies}
[tool.flwr.app]
publisher = "notebook"
[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"
[tool.flwr.app.config]
{config}"""
_LOADER = '''\
"""Loads the objects of a notebook."""
import base64
import pickle
import sys

from oneflower_appliance.errors import OneflowerError


def load(text):
    if sys.version_info[:2] != {python}:
        here = ".".join(map(str, sys.version_info[:2]))
        raise OneflowerError(
            f"The app comes from a notebook with Python {shown}, and this machine has Python {{here}}.",
            f"Run the notebook with Python {{here}}, or write the app into a folder (`oneflower new NAME`).",
        )
    return pickle.loads(base64.b85decode(text))
'''
_MODULE = '"""One object of a notebook."""\nfrom {package}.loading import load\n\napp = load("{text}")\n'


@dataclass(frozen=True)
class Objects:
    """A ServerApp and a ClientApp of this process, and the run config that they read."""

    server_app: object
    client_app: object
    config: Mapping[str, Value] = field(default_factory=dict)


def choose(app: str | None, server_app: object, client_app: object, config: Overrides) -> str | Objects | None:
    """Return what to train: an app by name or folder, or objects. Raises `OneflowerError` if it is both or half."""
    if server_app is None and client_app is None:
        return app
    if app is not None:
        raise OneflowerError(
            "An app and objects exclude each other.", "Leave out `app`, or `server_app` and `client_app`."
        )
    if not isinstance(config, Mapping):
        raise OneflowerError(
            "The run config of objects is not a mapping.", 'Give names and values: `config={"learning-rate": 0.1}`.'
        )
    return Objects(server_app, client_app, config)


@contextmanager
def packed(objects: Objects, flower: str, rounds: int) -> Iterator[str]:
    """Yield a folder with an app of these objects, for machines with a release of Flower.

    `rounds` is the default of the run config's num-server-rounds. Raises `OneflowerError`.
    """
    for kind, found in (("ServerApp", objects.server_app), ("ClientApp", objects.client_app)):
        _check_kind(kind, found)
    _check_flower(flower)
    modules: set[str] = set()
    with _own_modules_by_value():
        server, client = (
            _dumped(kind, found, modules)
            for kind, found in (("ServerApp", objects.server_app), ("ClientApp", objects.client_app))
        )
    with tempfile.TemporaryDirectory(prefix="oneflower-") as name:
        folder = Path(name)
        python = sys.version_info[:2]
        texts = {
            "pyproject.toml": _PROJECT.format(
                name=_NAME,
                package=_PACKAGE,
                dependencies=_distributions(modules),
                config=toml_text({"num-server-rounds": rounds, **objects.config}),
            ),
            # Flower imports the package itself on this machine, too: it has no code.
            f"{_PACKAGE}/__init__.py": '"""An app of objects of a notebook."""\n',
            f"{_PACKAGE}/loading.py": _LOADER.format(python=python, shown=".".join(map(str, python))),
            f"{_PACKAGE}/server_app.py": _MODULE.format(package=_PACKAGE, text=server),
            f"{_PACKAGE}/client_app.py": _MODULE.format(package=_PACKAGE, text=client),
        }
        for path, text in texts.items():
            write_atomic(folder / path, text)
        pickler = Path(inspect.getfile(_cloudpickle())).parent
        shutil.copytree(pickler, folder / pickler.name, ignore=shutil.ignore_patterns("__pycache__"))
        yield name


def _check_kind(kind: str, found: object) -> None:
    if not any(base.__name__ == kind and base.__module__.startswith("flwr.") for base in type(found).__mro__):
        raise OneflowerError(
            f"What was given as the {kind} is not one: {type(found).__name__}.",
            "Give both: `run(server_app=..., client_app=...)`, with objects of flwr.serverapp.ServerApp and "
            "flwr.clientapp.ClientApp.",
        )


def _check_flower(wanted: str) -> None:
    """Raise `OneflowerError` unless the machines can read what this process's Flower made."""
    try:
        here = version("flwr")
    except PackageNotFoundError:
        here = "another release"
    if here != wanted:
        raise OneflowerError(
            f"The objects were made with Flower {here}, and the machines have Flower {wanted}.",
            f"Install flwr=={wanted} where the notebook runs, or deploy with `FLOWER_VERSION={here}`.",
        )


def _dumped(kind: str, found: object, modules: set[str]) -> str:
    """Return an object as text, and add the modules that it names. Raises `OneflowerError`."""
    cloudpickle = _cloudpickle()

    class Pickler(cloudpickle.Pickler):  # type: ignore[name-defined,misc]
        def reducer_override(self, thing: Any) -> Any:
            modules.add(str(thing.__name__ if inspect.ismodule(thing) else _module_of(thing)))
            return super().reducer_override(thing)

    stream = BytesIO()
    try:
        Pickler(stream).dump(found)
    except Exception as error:  # an object of the user's may raise anything
        raise OneflowerError(
            f"The {kind} cannot be packed: {error}.",
            "Open files, connections and locks inside its functions, not outside.",
        ) from error
    content = stream.getvalue()
    if len(content) > _MOST:
        raise OneflowerError(
            f"The {kind} has {len(content) >> 20} MiB, and would go to every machine. The most is {_MOST >> 20} MiB.",
            "Its functions use data or a model of the notebook: load those inside the functions.",
        )
    return base64.b85encode(content).decode()


def _module_of(thing: object) -> str:
    return getattr(thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing), "__module__", "") or ""


@contextmanager
def _own_modules_by_value() -> Iterator[None]:
    """Send along the modules below the current folder, which no machine has."""
    cloudpickle, here = _cloudpickle(), Path.cwd()
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if _is_below(here, module) and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield


def _is_below(folder: Path, module: ModuleType) -> bool:
    path = Path(getattr(module, "__dict__", {}).get("__file__") or "/")
    return (
        path.is_relative_to(folder)
        and "site-packages" not in path.parts
        and module.__name__ in sys.modules
        and module.__name__.partition(".")[0] not in {"__main__", "oneflower", "oneflower_appliance"}
    )


def _distributions(modules: set[str]) -> list[str]:
    """Return the names of the packages that modules are from."""
    known = packages_distributions()
    tops = {module.partition(".")[0] for module in modules} - {"cloudpickle", "oneflower"}
    return sorted({known[top][0] for top in tops if top in known})


def _cloudpickle() -> Any:
    return importlib.import_module("cloudpickle")
