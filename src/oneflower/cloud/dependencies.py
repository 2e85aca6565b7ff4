"""What an app asks for, compared with the packages that the machines have: what is missing, and what conflicts.

The app's own declaration decides: `dependencies` in its pyproject.toml, and the extras that they name. Flower's extras
do not count, because they are for simulations, and no machine has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from oneflower_appliance.app_packages import excluded_by, release_of
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Needs = Callable[[str], Iterable[str]]  # what a package needs, with its extras: lines of its metadata

_OURS = "oneflower-appliance"  # machines have it, though not as an installed package
_FLOWER = "flwr"


@dataclass(frozen=True)
class Conflict:
    """A line of the app that excludes the release that the machines have, and that release as a line."""

    asked: str
    found: str

    def __str__(self) -> str:
        return f"{self.asked} (the app's pyproject.toml), {self.found} (the machines)"


@dataclass(frozen=True)
class Comparison:
    """The lines of an app that name packages which the machines lack, and those that ask for other releases."""

    missing: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    def refuse_missing(self, app: str, where: str, remedy: str) -> None:
        """Raise `OneflowerError` if a package is missing. `remedy` says how machines get one."""
        if self.missing:
            raise OneflowerError(
                f"The app {app} needs {', '.join(self.missing)}, which the machines of {where} do not have.", remedy
            )

    def refuse_conflicts(self, app: str, where: str) -> None:
        """Raise `OneflowerError` if the machines have another release than the app asks for."""
        if self.conflicts:
            lines = "".join(f"\n  {conflict}" for conflict in self.conflicts)
            raise OneflowerError(
                f"The app {app} asks for other releases than the machines of {where} have:{lines}",
                "Change the line in the app's pyproject.toml, or add `--ignore-versions` to run it with what they "
                "have.",
            )


def check_lines(lines: Iterable[str]) -> None:
    """Raise `ValueError` if a line of dependencies is not valid (PEP 508)."""
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            raise ValueError(f"the dependency {line!r} is not valid: {str(error).splitlines()[0]}") from error


def compare(lines: Iterable[str], packages: Mapping[str, str], needs: Needs = lambda _: ()) -> Comparison:
    """Compare lines of dependencies with `packages`: releases by normalised name, an empty text if not known.

    `needs` says what a package of the machines needs. Without it, extras of such packages are not checked.
    """
    missing, conflicts = set[str](), set[Conflict]()
    for wanted, origin in _with_extras(map(Requirement, lines), packages, needs):
        name = canonicalize_name(wanted.name)
        if release_of(name, packages) is None:
            missing.add(str(wanted))
        elif found := excluded_by(wanted, packages):
            conflicts.add(Conflict(f"{origin}{wanted.name}{wanted.specifier}", found))
    return Comparison(tuple(sorted(missing)), tuple(sorted(conflicts, key=str)))


def _with_extras(
    lines: Iterable[Requirement], packages: Mapping[str, str], needs: Needs
) -> Iterator[tuple[Requirement, str]]:
    """Yield the lines that count here, and those of the extras that they name, each with words for where it is from.

    Extras of a package that is missing come with it.
    """
    left = [(line, "") for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]
    seen = set[str]()
    while left:
        wanted, origin = left.pop(0)
        wanted.marker = None
        name = canonicalize_name(wanted.name)
        if name == _OURS or str(wanted) in seen:
            continue
        seen.add(str(wanted))
        yield wanted, origin
        if name != _FLOWER and wanted.extras and release_of(name, packages) is not None:
            asked = f"{wanted.name}[{','.join(sorted(wanted.extras))}], which needs "
            left += [(line, asked) for line in map(Requirement, needs(name)) if _is_of_extra(line, wanted.extras)]


def _is_of_extra(line: Requirement, extras: Iterable[str]) -> bool:
    marker = line.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return False
    return any(marker.evaluate({"extra": extra}) for extra in extras)
