"""Which release of Flower the machines of a service run, which one it should be, and what is left to do for that.

A machine runs the release in its CONTEXT. What the service's document says counts for machines that are made later. It
is changed last: until then it says which release to go back to.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.cloud.document import homes, roles_of
from oneflower.opennebula import COORDINATOR
from oneflower.opennebula.carried import RELEASE
from oneflower.opennebula.linted import mapping
from oneflower.opennebula.states import VmState
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.objects import Vm

FEW = 3  # SuperNodes that are changed at a time, after the first


@dataclass(frozen=True)
class Move:
    """A machine that gets another release of Flower. It boots `image` (its id), and is `off` if it is powered off."""

    id: int
    name: str
    role: str
    before: str
    image: str = ""
    off: bool = False


@dataclass(frozen=True)
class ReleaseChange:
    """The way of a service from one release to another. `moves` are the machines to change, in their order.

    `before` is what its document says, and `begun` whether machines differ from that: an upgrade was interrupted.
    """

    name: str
    before: str
    after: str
    moves: tuple[Move, ...] = ()
    begun: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.moves and self.before == self.after

    @property
    def other(self) -> str:
        """The release that it comes from: of the machines, where the document has that to which they go."""
        return next((move.before for move in self.moves if move.before != self.after), self.before)

    @property
    def groups(self) -> list[tuple[Move, ...]]:
        """The machines that are changed together: the SuperLink, one SuperNode, then a few at a time."""
        links = tuple(move for move in self.moves if move.role == COORDINATOR)
        nodes = tuple(move for move in self.moves if move.role != COORDINATOR)
        few = [nodes[start : start + FEW] for start in range(1, len(nodes), FEW)]
        return [group for group in (links, nodes[:1], *few) if group]


def change(name: str, body: Mapping[str, Any], found: Mapping[int, Vm], after: str) -> ReleaseChange:
    """Return how to bring the machines that were `found` to a release."""
    before, here = release_of(body), homes(body)
    all_ = [
        Move(vm.id, vm.short_name, here[number], vm.context.get(RELEASE) or FLOWER_TESTED,
             vm.image, off=vm.state == VmState.POWEROFF)
        for number, vm in found.items()
    ]  # fmt: skip
    moves = [move for move in all_ if move.before != after or move.off]
    moves.sort(key=lambda move: (move.role != COORDINATOR, move.id))
    return ReleaseChange(name, before, after, tuple(moves), any(move.off or move.before != before for move in all_))


def release_of(body: Mapping[str, Any]) -> str:
    """Return the release of Flower that new machines of a service get."""
    for role in roles_of(body).values():
        contents = mapping(role.get("template_contents"))
        value = contents.get(RELEASE) or mapping(contents.get("CONTEXT")).get(RELEASE)
        if isinstance(value, str) and value and not value.startswith("$"):
            return value
    return FLOWER_TESTED


def with_release(body: Mapping[str, Any], release: str) -> dict[str, Any]:
    """Return the document of a service whose new machines get this release."""
    changed = copy.deepcopy(dict(body))
    for role in roles_of(changed).values():
        contents = role.setdefault("template_contents", {})
        contents[RELEASE] = release
        contents.setdefault("CONTEXT", {})[RELEASE] = f"${RELEASE}"
        role.setdefault("user_inputs_values", {})[RELEASE] = release
    return changed
