"""The values of the variables, once they are known to be valid (`settings.resolve`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from oneflower_appliance.parameter import Level


class Settings(Mapping[str, str]):
    """Validated variables: as text through `[]`, typed through `text`, `integer`, `real` and `flag`."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def text(self, name: str) -> str:
        """Return a text, PEM or list variable."""
        return str(PARAMETERS[name].parse(self._raw[name]))

    def integer(self, name: str) -> int:
        """Return a number variable."""
        return int(PARAMETERS[name].parse(self._raw[name]))

    def real(self, name: str) -> float:
        """Return a number-float variable."""
        return float(PARAMETERS[name].parse(self._raw[name]))

    def flag(self, name: str) -> bool:
        """Return a boolean variable."""
        return bool(PARAMETERS[name].parse(self._raw[name]))

    def of_level(self, level: Level) -> dict[str, str]:
        """Return the raw values of one level, as OneFlow expects them in user_inputs_values."""
        return {name: raw for name, raw in self._raw.items() if PARAMETERS[name].level is level}
