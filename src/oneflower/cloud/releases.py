"""Whether machines and images have the release of oneflower that this client has.

An app may import what only a newer oneflower has, and then it fails in the machines. Nothing is refused for that: most
apps run on either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

from oneflower_appliance import __version__
from oneflower_appliance.attributes import RELEASE

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Mismatch:
    """What has another release than this client, and what to do about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"


def of_machines(published: Mapping[str, Mapping[str, str]], own: str = __version__) -> tuple[Mismatch, ...]:
    """Return the other releases that machines have, from what each of them published."""
    names: dict[str, list[str]] = {}
    for name, values in published.items():
        names.setdefault(RELEASE.read(values), []).append(name)
    found = (mismatch(", ".join(who), theirs, own) for theirs, who in names.items())
    return tuple(each for each in found if each)


def mismatch(who: str, theirs: str, own: str = __version__) -> Mismatch | None:
    """Return how the release of `who` differs from this client's. One that is not valid is that of an older image."""
    try:
        found = Version(theirs)
    except ValueError:  # also for a number with thousands of digits
        theirs = ""
    else:
        if found == Version(own):
            return None
        if found > Version(own):
            return Mismatch(
                f"{who}: oneflower {theirs}, newer than {own} here",
                f"This command may not show all that it reports. Use oneflower {theirs} here, or deploy again.",
            )
    return Mismatch(
        f"{who}: oneflower {theirs or 'without a release'}, older than {own} here",
        f"An app that needs the newer one fails there. Deploy again; on OpenNebula, register an image of {own} "
        "(`oneflower image build`, `oneflower register --image`), then `oneflower upgrade`."
        + (f" Or use oneflower {theirs} here." if theirs else ""),
    )
