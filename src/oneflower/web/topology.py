"""Where the machines of a federation are in its picture: the SuperLink above, the SuperNodes in rows below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oneflower.api import FederationStatus, VmStatus

_IN_A_ROW = 8
_WIDTH, _ROW, _TOP = 110, 84, 36
_LONGEST = 15


@dataclass(frozen=True)
class Spot:
    """One machine. `state` is good, wait or bad; `mark` says the same without a colour."""

    vm: VmStatus
    x: int
    y: int
    state: str
    mark: str
    label: str


@dataclass(frozen=True)
class Topology:
    """The picture: its size, the SuperLink (None if there is none yet) and the SuperNodes."""

    width: int
    height: int
    link: Spot | None
    nodes: tuple[Spot, ...]


def topology(status: FederationStatus) -> Topology:
    """Return the picture of a federation."""
    link = status.superlink
    nodes = [vm for vm in status.vms if vm is not link]
    widest = max(2, min(_IN_A_ROW, len(nodes)))
    spots = []
    for index, vm in enumerate(nodes):
        row, column = divmod(index, _IN_A_ROW)
        here = min(_IN_A_ROW, len(nodes) - row * _IN_A_ROW)
        left = (widest - here) * _WIDTH // 2
        spots.append(_spot(vm, left + column * _WIDTH + _WIDTH // 2, _TOP + (row + 1) * _ROW + 16))
    rows = -(-len(nodes) // _IN_A_ROW)
    top = None if link is None else _spot(link, widest * _WIDTH // 2, _TOP)
    return Topology(widest * _WIDTH, _TOP + rows * _ROW + 64, top, tuple(spots))


def _spot(vm: VmStatus, x: int, y: int) -> Spot:
    state, mark = ("good", "✓") if vm.ready else ("bad", "✗") if vm.error else ("wait", "…")
    label = vm.name if len(vm.name) <= _LONGEST else f"{vm.name[: _LONGEST - 1]}…"
    return Spot(vm, x, y, state, mark, label)
