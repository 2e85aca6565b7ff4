"""Lets the SuperNodes of one's own service in, and nobody else.

At each look the registrar registers the key of every node of the service that it has not seen yet, checks one of those
it has seen (a VM that was made anew has a new key), and unregisters those that left. Both cost per node what they cost,
however large the federation is.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import logging
from typing import TYPE_CHECKING

from oneflower_appliance.agent.node_key import fingerprint
from oneflower_appliance.agent.roster import Member, Roster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oneflower_appliance.agent.flower_process import LoopbackDoor
    from oneflower_appliance.agent.onegate import OneGate

log = logging.getLogger(__name__)


class Registrar:
    """Keeps `roster`; `published` is the roster of an earlier life of this agent."""

    def __init__(self, door: LoopbackDoor, published: str) -> None:
        self._door = door
        self._confirmed: set[int] = set()
        self._turn = 0
        self.roster = Roster.recall(published)

    def look(self, onegate: OneGate, nodes: Sequence[int]) -> None:
        """Bring the registry, and the roster with it, in line with the service's `nodes`.

        Raises `OneGateError`. A registry that does not answer is asked again at the next look.
        """
        members = dict(self.roster.members)
        try:
            for vm in [vm for vm in members if vm not in nodes]:
                self._door.unregister(members[vm].node_id)
                del members[vm]
                self._confirmed.discard(vm)
            for vm in self._due(nodes):
                if member := self._enrol(onegate, vm, members.get(vm)):
                    members[vm] = member
                    self._confirmed.add(vm)
        except (OSError, ValueError) as error:
            log.warning("The SuperLink's registry does not answer: %s", error)
        self.roster = Roster(members)

    def _due(self, nodes: Sequence[int]) -> Iterable[int]:
        fresh = [vm for vm in nodes if vm not in self._confirmed]
        known = [vm for vm in nodes if vm in self._confirmed]
        self._turn += 1
        return itertools.chain(fresh, known[self._turn % len(known) :][:1] if known else ())

    def _enrol(self, onegate: OneGate, vm: int, member: Member | None) -> Member | None:
        published = onegate.attributes(vm).get("FL_PUBLIC_KEY", "")
        if not published:
            return None
        key = fingerprint(published)
        if member is not None and member.key == key and vm in self._confirmed:
            return member
        try:
            pem = base64.b64decode(published, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            log.warning("VM %s published a key that cannot be read.", vm)
            return None
        if member is not None and member.key != key:
            self._door.unregister(member.node_id)
        return Member(self._door.register(pem), key)
