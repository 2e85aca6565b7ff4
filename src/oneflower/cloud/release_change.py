"""Which release of Flower and which images the machines of a service run, what they should, and what is left to do.

A machine runs the release in its CONTEXT, and boots one of its disks. What the service's document says counts for
machines that are made later. It is changed last: until then it says what to go back to.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.cloud.document import homes, roles_of
from oneflower.opennebula import COORDINATOR
from oneflower.opennebula.carried import RELEASE
from oneflower.opennebula.linted import mapping
from oneflower.opennebula.states import PLUGGING, VmState
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oneflower.cloud.objects import Vm

FEW = 3  # SuperNodes that are changed at a time, after the first


@dataclass(frozen=True)
class Destination:
    """What the machines of a service should run: a release of Flower, and the image of each role, by id.

    `images` is empty for machines that boot no image. `titles` are their names, and `releases` those of oneflower that
    they carry, by id, where known.
    """

    release: str
    images: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, str] = field(default_factory=dict)

    def image_of(self, role: str) -> str:
        """Return the image that a role should boot, empty if that does not matter."""
        return self.images.get(role, "")

    def same(self, other: Destination) -> bool:
        """Whether both want the same of the machines."""
        return (self.release, dict(self.images)) == (other.release, dict(other.images))

    def __str__(self) -> str:
        names = list(dict.fromkeys(self.titles.get(image, image) for image in self.images.values()))
        of = f" of the image{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""
        return f"Flower {self.release}{of}"


@dataclass(frozen=True)
class Move:
    """A machine that gets another release of Flower or another image. It boots `image` (an id) now.

    `off` if it is powered off.
    """

    id: int
    name: str
    role: str
    before: str
    image: str = ""
    off: bool = False


@dataclass(frozen=True)
class ReleaseChange:
    """The way of a service to another release or image. `moves` are the machines to change, in their order.

    `before` is the release that its document says, and `begun` whether machines differ from the document: an upgrade
    was interrupted. `origin` is all that the document says, and `to` what the machines are to run.
    """

    name: str
    before: str
    after: str
    origin: Destination
    to: Destination
    moves: tuple[Move, ...] = ()
    begun: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.moves and self.origin.same(self.to)

    @property
    def back(self) -> bool:
        """Whether it goes back to what the document says, after an upgrade that was interrupted."""
        return self.origin.same(self.to)

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


def change(
    name: str, body: Mapping[str, Any], found: Mapping[int, Vm], to: Destination, origin: Destination
) -> ReleaseChange:
    """Return how to bring the machines that were `found` to where they should be. `origin` is what `body` says."""
    here = homes(body)
    all_ = [
        Move(
            vm.id, vm.short_name, here[number], vm.context.get(RELEASE) or FLOWER_TESTED, vm.image,
            off=vm.state == VmState.POWEROFF or vm.lcm_state in PLUGGING,
        )
        for number, vm in found.items()
    ]  # fmt: skip
    moves = [move for move in all_ if move.off or not _is_at(move, to)]
    moves.sort(key=lambda move: (move.role != COORDINATOR, move.id))
    begun = any(move.off or not _is_at(move, origin) for move in all_)
    return ReleaseChange(name, origin.release, to.release, origin, to, tuple(moves), begun)


def _is_at(move: Move, place: Destination) -> bool:
    return move.before == place.release and place.image_of(move.role) in ("", move.image)


def release_of(body: Mapping[str, Any]) -> str:
    """Return the release of Flower that new machines of a service get."""
    for role in roles_of(body).values():
        contents = mapping(role.get("template_contents"))
        value = contents.get(RELEASE) or mapping(contents.get("CONTEXT")).get(RELEASE)
        if isinstance(value, str) and value and not value.startswith("$"):
            return value
    return FLOWER_TESTED


def with_release(
    body: Mapping[str, Any], release: str, disks: Mapping[str, Sequence[Mapping[str, str]]] | None = None
) -> dict[str, Any]:
    """Return the document of a service whose new machines get this release, and of each role these disks."""
    changed = copy.deepcopy(dict(body))
    for name, role in roles_of(changed).items():
        contents = role.setdefault("template_contents", {})
        contents[RELEASE] = release
        contents.setdefault("CONTEXT", {})[RELEASE] = f"${RELEASE}"
        role.setdefault("user_inputs_values", {})[RELEASE] = release
        if disks and name in disks:
            contents["DISK"] = [dict(disk) for disk in disks[name]]
    return changed
