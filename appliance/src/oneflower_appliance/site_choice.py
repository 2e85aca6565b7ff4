"""Which sites take part in a run, and how many different ones each of its rounds needs (FL_SITES, FL_MIN_SITES).

The nodes of the federation itself are of no site. They are chosen as `-`, and never count as one of different sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.invitation import is_site_name

if TYPE_CHECKING:
    from collections.abc import Collection

OWN = "-"  # the federation's own nodes


def read_sites(text: str) -> tuple[str, ...]:
    """Split `north,south,-`, each only once. Raises `ValueError`."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if len(set(names)) < len(names):
        raise ValueError(text)
    for name in names:
        if name != OWN and not is_site_name(name):
            raise ValueError(name)
    return tuple(names)


@dataclass(frozen=True)
class SiteChoice:
    """The sites that take part, none of which means all, and how many different ones a round needs (0: any number)."""

    sites: tuple[str, ...] = ()
    least: int = 0

    @classmethod
    def of(cls, form: Mapping[str, str]) -> SiteChoice:
        """Return what a form says. Raises `ValueError`."""
        return cls(read_sites(form.get("FL_SITES", "")), int(form.get("FL_MIN_SITES") or 0))

    @classmethod
    def parse(cls, said: Any) -> SiteChoice:
        """Read what `entry` wrote. Raises `KeyError`, `TypeError` or `ValueError`."""
        if not isinstance(said, Mapping) or not isinstance(said["sites"], list):
            raise TypeError(said)
        return cls(read_sites(",".join(map(str, said["sites"]))), max(0, int(said["least"])))

    @property
    def entry(self) -> dict[str, Any]:
        """What `parse` reads, as data for JSON."""
        return {"sites": list(self.sites), "least": self.least}

    @property
    def is_open(self) -> bool:
        """Whether every node takes part, in any combination."""
        return self == SiteChoice()

    @property
    def named(self) -> tuple[str, ...]:
        """The sites that were named, without the federation's own nodes."""
        return tuple(name for name in self.sites if name != OWN)

    def admits(self, site: str) -> bool:
        """Whether the nodes of a site take part; an empty text stands for the federation's own nodes."""
        return not self.sites or (site or OWN) in self.sites

    def problem(self, known: Collection[str]) -> str:
        """Return why no run of a federation with these sites can be as was chosen, or an empty text."""
        if unknown := [name for name in self.named if name not in known]:
            are = f"is no site {unknown[0]}" if len(unknown) == 1 else f"are no sites {', '.join(unknown)}"
            return f"There {are} here. Known: {', '.join(sorted(known)) or 'none'}."
        possible = self.named if self.sites else tuple(sorted(known))
        if len(possible) < self.least:
            names = ", ".join(possible) or "none"
            return f"A round needs nodes of {self.least} sites, and it can have those of {len(possible)}: {names}."
        return ""

    def shortage(self, there: Collection[str], known: Collection[str]) -> str:
        """Return why a round cannot begin with nodes of these sites, naming those that are missing; empty if it can."""
        if len(there) >= self.least:
            return ""
        absent = sorted(set(self.named if self.sites else known) - set(there))
        return (
            f"A round needs nodes of {self.least} sites (FL_MIN_SITES). There: {', '.join(sorted(there)) or 'none'}. "
            f"Not there: {', '.join(absent) or 'none'}."
        )
