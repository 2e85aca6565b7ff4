"""Packages that Flower imports and an idle SuperNode does not use: on a small machine they are imported when they are.

Flower imports gRPC, although its SuperNode speaks HTTP, and NumPy, although a SuperNode passes arrays on as bytes. With
the others in `PACKAGES` they take a fifth of the memory of an idle node. Here Flower's modules get stand-ins for them
while they are imported. All that they do with one then is to name what is in it, to annotate something with that, and
to derive classes from gRPC's. If they do more, they cannot be imported like this. Later, whatever is done with a
stand-in imports its package. Tasks have processes of their own, in which nothing is put off.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGES = ("grpc", "numpy", "requests", "rich", "typer", "watchfiles", "Crypto", "yaml", *internals.OF_NO_SUPERNODE)
_STARTS = tuple(f"{package}." for package in PACKAGES)
_STUBS = "_pb2_grpc"  # the end of the names of modules with generated code for gRPC


class UsedError(RuntimeError):
    """A stand-in cannot do what was asked of it."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Give stand-ins to all that imports the packages within. Raises `UsedError` where that does not do."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.is_open = False
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
            del sys.modules[name]


class _Finder:
    is_open = True

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if f"{fullname}.".startswith(_STARTS) or fullname.endswith(_STUBS):
            # Not a Loader of importlib.abc, because that imports 2 MB.
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _is_grpc(module: str) -> bool:
    """Whether a module is not needed later either, so that a class may be derived from what stands for one of its."""
    return module == "grpc" or module.endswith(_STUBS)


class _Module(ModuleType):
    """Stands for a module."""

    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        vars(self)["finder"] = finder

    def __getattr__(self, name: str) -> Any:
        if not self.finder.is_open:
            return getattr(self.imported(), name)
        if name.startswith("__"):  # asked of every module, by what imports it
            raise AttributeError(name)
        return _Name(self, name)

    def imported(self) -> ModuleType:
        """Import the module."""
        if self.finder.is_open or _is_grpc(self.__name__):
            raise UsedError(f"{self.__name__} is used, which was put off (FL_PROFILE=edge).")
        return importlib.import_module(self.__name__)


class _Name:
    """Stands for what has a name in a module, or a name in that."""

    def __init__(self, module: _Module, *names: str) -> None:
        self._module, self._names = module, names

    def _real(self) -> Any:
        return functools.reduce(getattr, self._names, self._module.imported())

    def __getattr__(self, name: str) -> Any:
        if not self._module.finder.is_open:
            return getattr(self._real(), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(self._module, *self._names, name)

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[type, ...]:
        if self._module.finder.is_open and _is_grpc(self._module.__name__):
            return (type(self._names[-1], (), {}),)
        return (self._real(),)

    def __getitem__(self, key: Any) -> Any:
        return self if self._module.finder.is_open else self._real()[key]

    def __or__(self, other: Any) -> Any:
        return self if self._module.finder.is_open else self._real() | other

    def __ror__(self, other: Any) -> Any:
        return self if self._module.finder.is_open else other | self._real()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._real())
