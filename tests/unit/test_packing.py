"""Objects of a notebook: what is packed, what comes out of it on a machine, and what is refused."""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from oneflower.cloud import packing
from oneflower.cloud.apps import load_app
from oneflower.cloud.packing import Objects, choose, packed
from oneflower_appliance.errors import OneflowerError

FLOWER = version("flwr")

NOTEBOOK = """
import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
import module_of_the_user

server_app, client_app = ServerApp(), ClientApp()

@server_app.main()
def main(grid, context):
    grid.append(module_of_the_user.twice(int(np.sum(context.run_config["numbers"]))))

@client_app.query()
def query(message, context):
    return message
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """What a notebook has defined, with a module beside it."""
    (tmp_path / "module_of_the_user.py").write_text("FACTOR = 2\ndef twice(value): return FACTOR * value\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    cells = {"__name__": "__main__"}
    exec(NOTEBOOK, cells)  # noqa: S102 - as a kernel does
    yield SimpleNamespace(**cells)
    sys.modules.pop("module_of_the_user", None)


@pytest.fixture
def machine(monkeypatch):
    """Import a module as the machine that got a folder does, where nothing else of the notebook is."""

    def load(folder, module):
        sys.modules.pop("module_of_the_user", None)
        with monkeypatch.context() as there:
            there.setattr(sys, "path", [folder, *(path for path in sys.path if "pytest" not in path)])
            importlib.invalidate_caches()
            return importlib.import_module(f"notebook_app.{module}").app

    yield load
    for name in [name for name in sys.modules if name.startswith("notebook_app")]:
        del sys.modules[name]


def test_objects_of_a_notebook_become_an_app(notebook, machine, tmp_path):
    objects = Objects(notebook.server_app, notebook.client_app, {"learning-rate": 0.5, "why": 'a "reason"'})
    with packed(objects, FLOWER, 4) as folder:
        app = load_app(folder, {})
        assert app.config == {"num-server-rounds": 4, "learning-rate": 0.5, "why": 'a "reason"'}
        assert app.declaration.dependencies == ("flwr", "numpy")
        (tmp_path / "module_of_the_user.py").unlink()
        results = []
        machine(folder, "server_app")(results, SimpleNamespace(run_config={"numbers": [1, 2, 3]}))
        assert results == [12]
        assert isinstance(machine(folder, "client_app"), ClientApp)
    assert not Path(folder).exists()


def test_a_machine_with_another_python_says_so(notebook, machine, monkeypatch):
    monkeypatch.setattr(packing, "_distributions", lambda modules: [])
    with packed(Objects(notebook.server_app, notebook.client_app), FLOWER, 3) as folder:
        monkeypatch.setattr(sys, "version_info", (3, 99, 0))
        with pytest.raises(
            OneflowerError, match=r"from a notebook with Python 3\.\d+, and this machine has Python 3\.99"
        ):
            machine(folder, "server_app")


def holding(thing):
    app, cells = ClientApp(), {"__name__": "__main__", "thing": thing}
    exec("def query(message, context): return thing", cells)  # noqa: S102
    app.query()(cells["query"])
    return app


@pytest.mark.parametrize(
    ("server", "client", "flower", "why"),
    [
        (ServerApp(), None, FLOWER, "given as the ClientApp is not one: NoneType"),
        (ClientApp(), ServerApp(), FLOWER, "given as the ServerApp is not one: ClientApp"),
        (ServerApp(), ClientApp(), "1.2.3", "the machines have Flower 1.2.3"),
        (
            ServerApp(),
            holding(threading.Lock()),
            FLOWER,
            "The ClientApp cannot be packed: cannot pickle '_thread.lock'",
        ),
        (ServerApp(), holding(b"x" * 1000), FLOWER, "would go to every machine"),
    ],
)
def test_objects_that_no_machine_could_use_are_refused(server, client, flower, why, monkeypatch):
    monkeypatch.setattr(packing, "_MOST", 1000)
    with pytest.raises(OneflowerError, match=why), packed(Objects(server, client), flower, 3):
        pass


def test_an_app_is_a_folder_or_two_objects():
    assert choose("folder", None, None, ["x=1"]) == "folder"
    assert choose(None, None, None, {}) is None
    assert choose(None, "server", None, {"x": 1}) == Objects("server", None, {"x": 1})
    with pytest.raises(OneflowerError, match="exclude each other"):
        choose("folder", None, "client", {})
    with pytest.raises(OneflowerError, match="is not a mapping"):
        choose(None, "server", "client", ["x=1"])
