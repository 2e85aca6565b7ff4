"""Modules that only some apps need are imported ahead of tasks, once a task has imported them itself."""

from __future__ import annotations

import importlib
import os
import sys

import pytest

from oneflower_appliance.flower.warm.ahead import OnDemand
from oneflower_appliance.orders import FRAMEWORK_VARIABLE
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.use_cases import FRAMEWORKS, SERVERAPP_IMPORTS

RARE = "this"  # a module that nothing else imports


@pytest.fixture(autouse=True)
def _unimported(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop(RARE, None)


def task(on_demand, *, needs):
    """Run a task in a fork, which notes at its end what it has imported."""
    if not (pid := os.fork()):
        try:
            if needs:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the module prints
                importlib.import_module(RARE)
            on_demand.note()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_module_is_imported_ahead_once_a_task_has_imported_it(capsys):
    on_demand = OnDemand((RARE, "no_such_module"))
    on_demand.import_if_needed()
    task(on_demand, needs=False)
    on_demand.import_if_needed()
    assert RARE not in sys.modules
    task(on_demand, needs=True)
    assert RARE not in sys.modules
    on_demand.import_if_needed()
    assert RARE in sys.modules
    assert "Zen" in capsys.readouterr().out
    del sys.modules[RARE]
    on_demand.import_if_needed()
    assert RARE not in sys.modules, "once"


def test_each_role_has_its_own(monkeypatch):
    monkeypatch.delenv(FRAMEWORK_VARIABLE, raising=False)
    assert OnDemand.of(COORDINATOR)._modules == SERVERAPP_IMPORTS
    for name, modules in (("sklearn", FRAMEWORKS["sklearn"].imports), ("pytorch", ())):
        monkeypatch.setenv(FRAMEWORK_VARIABLE, name)
        assert OnDemand.of(NODES)._modules == modules
