"""Keeps Flower's databases out of processes that have none: SuperNodes, SuperExecs and tasks.

Flower imports its classes for databases wherever it can choose between them and those that keep everything in memory.
With SQLAlchemy they take 30 MB. Only a SuperLink makes one, so they are imported where one is made.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from oneflower_appliance.flower import internals


def put_off_databases() -> None:
    """Have Flower's classes for databases imported where one is made. Call it before Flower is imported."""
    for module, kind in internals.DATABASES.items():
        sys.modules.setdefault(module, _Later(module, kind))


def import_databases() -> None:
    """Import them now: this process will make one."""
    for module in internals.DATABASES:
        found = sys.modules.get(module)
        if isinstance(found, _Later):
            found.imported()


class _Later(ModuleType):
    """Stands for a module until its class `kind` is called, or another name in it is asked for."""

    def __init__(self, module: str, kind: str) -> None:
        super().__init__(module)

        def make(*args: Any, **kwargs: Any) -> Any:
            return getattr(self.imported(), kind)(*args, **kwargs)

        vars(self)[kind] = make

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module, by what looks through all
            raise AttributeError(name)
        return getattr(self.imported(), name)

    def imported(self) -> ModuleType:
        """Import the module, and return it."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)
