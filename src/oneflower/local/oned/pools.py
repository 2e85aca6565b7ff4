"""Which objects a pool call asks for: by owner, by a range of ids, or by a page. Source: PoolSharedAPI.cc."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.corexml import text
from oneflower.local.oned.rights import WHOSE_ALL, WHOSE_PRIMARY_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeVar
    from xml.etree.ElementTree import Element

    from oneflower.local.oned.ownership import Owned
    from oneflower.local.oned.rights import Asking, Kind, Rights

    Thing = TypeVar("Thing", bound=Owned)


def pool(name: str, elements: Iterable[Element]) -> str:
    """Return elements as a pool."""
    return f"<{name}>{''.join(map(text, elements))}</{name}>"


def chosen(
    rights: Rights, asking: Asking, kind: Kind, things: Mapping[int, Thing], whose: int = WHOSE_ALL, *window: int
) -> list[Thing]:
    """Return the objects that a pool call asks for and its user may see, in order. Raises `CloudError` 400."""
    if whose < WHOSE_PRIMARY_GROUP:
        raise CloudError(400, f"[{asking.call}] Incorrect filter_flag")
    seen = [number for number, it in things.items() if rights.sees(asking.user, kind, number, it.access, whose)]
    return [things[number] for number in in_window(seen, *window[:2])]


def in_window(numbers: Iterable[int], start: int = -1, end: int = -1) -> list[int]:
    """Return ids in order: those from `start` to `end`, or a page if `end` is negative.

    A page has `-end` objects and begins with the one numbered `start`. Source: PoolSQL.cc.
    """
    found = sorted(numbers)
    if end < -1:
        first = max(start, 0)
        return found[first : first - end]
    if start != -1:
        found = [number for number in found if number >= start and (end == -1 or number <= end)]
    return found
