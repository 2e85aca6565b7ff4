"""What is imported ahead of tasks, in the process that forks for each."""

from __future__ import annotations

import importlib
import logging
import mmap
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Self

from oneflower_appliance.flower import clientapp, serverapp
from oneflower_appliance.orders import FRAMEWORK_VARIABLE
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.use_cases import FRAMEWORKS, SERVERAPP_IMPORTS, Framework

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger("flwr")


def framework_here() -> Framework | None:
    """Return the framework of this machine, None for a SuperLink's."""
    return FRAMEWORKS.get(os.environ.get(FRAMEWORK_VARIABLE, ""))


def preload(role: str) -> None:
    """Import the packages that every task of a role needs, if they are installed."""
    framework = framework_here() if role == NODES else None
    flower = {COORDINATOR: serverapp.imports, NODES: clientapp.imports}[role]
    modules = framework.imports if framework and not framework.on_demand else ()
    _import({"Flower": flower} | _modules(modules))


class OnDemand:
    """Modules that only some apps need: imported ahead of tasks as soon as one task has imported them itself."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        self._needed = mmap.mmap(-1, 1)  # shared with the tasks, which are forks

    @classmethod
    def of(cls, role: str) -> Self:
        """Return those of a role."""
        framework = framework_here()
        of_nodes = framework.imports if framework and framework.on_demand else ()
        return cls(SERVERAPP_IMPORTS if role == COORDINATOR else of_nodes)

    def note(self) -> None:
        """Record, at the end of a task, whether it has imported a package of them."""
        if any(module.partition(".")[0] in sys.modules for module in self._modules):
            self._needed[0] = 1

    def import_if_needed(self) -> None:
        """Import them, if a task did."""
        if self._modules and self._needed[0]:
            modules, self._modules = self._modules, ()
            _import(_modules(modules))


def _modules(names: Iterable[str]) -> dict[str, Callable[[], object]]:
    return {name: partial(importlib.import_module, name) for name in names}


def _import(steps: Mapping[str, Callable[[], object]]) -> None:
    for name, import_it in steps.items():
        try:
            import_it()
        except Exception as error:  # noqa: BLE001 - any error: the task that needs the package will report it
            log.debug("%s is not imported ahead of tasks: %s", name, error)
