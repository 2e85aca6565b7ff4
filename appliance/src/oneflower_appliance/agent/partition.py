"""Which share of the data each SuperNode holds.

The SuperLink's agent assigns the ids. It is the only writer, so no two live nodes can hold the same id, and a booting
node reads only one VM in a federation of any size. The table is the attribute FL_PARTITIONS of the SuperLink's VM,
`vm:id` pairs separated by spaces, followed by the number of partitions: `/4 17:0 18:1 19:2 20:3`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEXT = re.compile(r"/(\d+)((?: \d+:\d+)*)")


@dataclass(frozen=True)
class Partitions:
    """Partition id of each live SuperNode by VM id, and the number of partitions.

    `away` are the ids of nodes that were missing at the last look, as long as no other node has them.
    """

    ids: Mapping[int, int] = field(default_factory=dict)
    count: int = 0
    away: Mapping[int, int] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"/{self.count}" + "".join(f" {vm}:{number}" for vm, number in self.ids.items())

    @classmethod
    def parse(cls, text: str) -> Partitions:
        """Read what `str` wrote. Raises `ValueError`."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(text)
        pairs = (pair.split(":") for pair in match[2].split())
        return cls({int(vm): int(number) for vm, number in pairs}, int(match[1]))

    def after(self, nodes: Sequence[int]) -> Partitions:
        """Return the table for the role's VMs `nodes`, oldest first.

        A node that is still there, or is back, keeps its id; a new one takes the lowest free id, in the order of the
        nodes. The count is the number of nodes, and more while an old node holds a higher id than that. An empty list
        changes nothing: OneGate sends one when it knows nothing.
        """
        if not nodes:
            return self
        known = {**self.away, **self.ids}
        kept = {vm: known[vm] for vm in nodes if vm in known}
        taken = set(kept.values())
        free = (number for number in range(len(nodes) + len(taken)) if number not in taken)
        ids = {vm: kept[vm] if vm in kept else next(free) for vm in nodes}
        given = set(ids.values())
        away = {vm: number for vm, number in known.items() if vm not in ids and number not in given}
        return Partitions(ids, max([len(nodes), *(number + 1 for number in ids.values())]), away)
