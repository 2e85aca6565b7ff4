"""The state that a strategy keeps from round to round: its attributes that have changed since the run began.

Nobody declares these. The attributes are compared with their values before the first round, so this works for Flower's
strategies, for wrappers, and for users' own. Attributes that have changed and can be packed are saved and restored. If
one has changed and cannot be packed, or cannot be compared, the strategy cannot be resumed, and `Memory.unfit` names
it.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp import strategy as flower

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.training.packing import Packed, Packer, UnpackableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flwr.serverapp.strategy import Strategy

_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_SHARED_BY_A_CLASS = (list, dict, set, np.ndarray)
# In these, `configure_train` sets the attribute from the global model in each round.
_TAKEN_FROM_THE_MODEL: dict[str, tuple[type[Strategy], ...]] = {
    "current_arrays": (
        flower.FedAdagrad, flower.FedAdam, flower.FedYogi, flower.QFedAvg,
        flower.DifferentialPrivacyServerSideAdaptiveClipping, flower.DifferentialPrivacyServerSideFixedClipping,
    ),
    "current_bst": (flower.FedXgbBagging,),
}  # fmt: skip
_OUR_PACKAGES = ("flwr.", "oneflower_appliance.")


@dataclass(frozen=True)
class Memory:
    """The state of a strategy, by attribute; `unfit` says why it cannot be resumed from this, empty if it can."""

    attributes: Mapping[str, Packed] = field(default_factory=dict)
    unfit: str = ""

    def same(self, other: Memory) -> bool:
        """Return whether both are equal."""
        if self.unfit != other.unfit or self.attributes.keys() != other.attributes.keys():
            return False
        return all(packed.same(other.attributes[path]) for path, packed in self.attributes.items())

    @property
    def used(self) -> bool:
        """Whether the strategy remembers anything."""
        return bool(self.attributes or self.unfit)

    @property
    def unfit_without(self) -> str:
        """Why a strategy with this state cannot be resumed without it, empty if it can."""
        names = ", ".join(self.attributes)
        return self.unfit or (f"What its strategy remembers ({names}) was not saved." if names else "")

    @property
    def copy(self) -> Memory:
        """A copy that the strategy's next steps do not change."""
        return Memory({path: packed.copy for path, packed in self.attributes.items()}, self.unfit)

    def restore(self, strategy: Any) -> None:
        """Put it into a strategy that was made like the one that it comes from. Raises `OneflowerError`."""
        for path, packed in self.attributes.items():
            *outer, name = path.split(".")
            try:
                owner = functools.reduce(getattr, outer, strategy)
                setattr(owner, name, packed.copy.unpack())
            except (AttributeError, KeyError, ValueError) as error:
                raise OneflowerError(
                    f"The strategy cannot be given back what it remembered: {path} cannot be set ({error}).",
                    "Resume it with the app and the settings that it was trained with.",
                    ExitCode.INVALID_INPUT,
                ) from error


class Watched:
    """A strategy before its first round, which later returns its state.

    A strategy of a class `kind` inside it belongs to it.
    """

    def __init__(self, strategy: Any, kind: type) -> None:
        self._strategy = strategy
        self._kind = kind
        self._before = {path: value.copy for path, value in _look(strategy, kind).items()}

    def look(self) -> Memory:
        """Return the strategy's current state. The arrays belong to it: take a `copy` to keep them."""
        now = _look(self._strategy, self._kind)
        changed = {
            path: value
            for path, value in now.items()
            if path not in self._before or not _same(value, self._before[path])
        }
        reasons = [f"its attribute {path} ({value.kind}) {value.reason}"
                   for path, value in changed.items() if isinstance(value, _Opaque)]  # fmt: skip
        reasons += [f"its attribute {path} was removed" for path in self._before if path not in now]
        found = {path: value for path, value in changed.items() if isinstance(value, Packed)}
        return Memory(found, _sentence(self._strategy, reasons) if reasons else "")


def _sentence(strategy: Any, reasons: list[str]) -> str:
    return f"The strategy {type(strategy).__name__} cannot be saved as it is: {'; '.join(reasons)}."


@dataclass(frozen=True)
class _Opaque:
    """A value that cannot be packed. The only question is whether it has changed."""

    kind: str
    code: Any
    digest: bytes

    @classmethod
    def of(cls, value: Any) -> _Opaque:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, _CODE):
            return cls(kind, value, b"")
        try:
            # Only for comparison. It is never unpickled.
            return cls(kind, None, hashlib.sha256(pickle.dumps(value)).digest())
        except Exception:  # noqa: BLE001 - an object's own code may do anything
            return cls(kind, None, b"")

    @property
    def comparable(self) -> bool:
        return self.code is not None or bool(self.digest)

    @property
    def reason(self) -> str:
        return (
            "changes during the run and is not plain data"
            if self.comparable
            else "cannot be compared from round to round"
        )

    @property
    def copy(self) -> _Opaque:
        return self


def _same(one: Packed | _Opaque, two: Packed | _Opaque) -> bool:
    if isinstance(one, Packed) and isinstance(two, Packed):
        return one.same(two)
    return isinstance(one, _Opaque) and one.comparable and one == two


def _look(strategy: Any, kind: type) -> dict[str, Packed | _Opaque]:
    """Return the attributes of a strategy and of the strategies inside it, by their paths."""
    packer = Packer()
    found: dict[str, Packed | _Opaque] = {}
    for path, value in _attributes(strategy, kind, "", set()):
        try:
            found[path] = packer.pack(path, value)
        except UnpackableError:
            found[path] = _Opaque.of(value)
    return found


def _attributes(layer: Any, kind: type, prefix: str, met: set[int]) -> Iterator[tuple[str, Any]]:
    if id(layer) in met:
        return
    met.add(id(layer))
    for name, value in _data(layer).items():
        if isinstance(value, kind):
            yield f"{prefix}{name}", type(value)
            yield from _attributes(value, kind, f"{prefix}{name}.", met)
        elif not _is_taken_from_the_model(layer, name):
            yield f"{prefix}{name}", value


def _data(layer: Any) -> dict[str, Any]:
    """Return the attributes of an object, and those of its classes that can be changed in place."""
    found: dict[str, Any] = {}
    for kind in reversed(type(layer).__mro__):
        slots = [name for name, value in vars(kind).items() if isinstance(value, types.MemberDescriptorType)]
        found |= {name: getattr(layer, name) for name in slots if hasattr(layer, name)}
        found |= {
            name: value
            for name, value in vars(kind).items()
            if isinstance(value, _SHARED_BY_A_CLASS) and not name.startswith("__")
        }
    return found | dict(vars(layer))


def _is_taken_from_the_model(layer: Any, name: str) -> bool:
    """Return whether an attribute need not be saved. An app's own subclass may use it in another way."""
    known = isinstance(layer, _TAKEN_FROM_THE_MODEL.get(name, ()))
    return known and type(layer).__module__.startswith(_OUR_PACKAGES)
