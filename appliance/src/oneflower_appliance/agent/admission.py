"""Lets the SuperNodes of one's own service in, and nobody else.

At each look it registers the key of every node of the service that it has not seen yet, checks one of those
it has seen (a VM that was made anew has a new key), and unregisters those that are gone. All of it costs per node what
it costs, however large the federation is.

Flower never takes a key again that was unregistered, so a node is unregistered only when it is surely gone. Members of
a service can write each other's attributes; so a key belongs for ever to the VM that held it first, and the key of a
node that is online cannot be changed. What one node does wrong keeps no other node out.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.agent.link import KeyRefusedError
from oneflower_appliance.agent.node_key import PublicKey
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.roster import Member, Roster
from oneflower_appliance.attributes import PUBLIC_KEY
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.refusals import Reason, Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate

log = logging.getLogger(__name__)

_LOOKS, _SECONDS = 3, 60.0  # for how many looks, and how long, a VM is missing before it is asked whether it is gone
_MOST_KEYS = 50  # of one VM: each takes a row in Flower's state, for ever


@dataclass
class _Absence:
    since: float
    looks: int = 0


class _NotLetInError(Exception):
    def __init__(self, key: str, reason: Reason) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


class Admission:
    """Keeps `roster` and `refusals`. What it must not forget is in `file`, which no other member can write."""

    def __init__(self, door: SuperLinkApi, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._door = door
        self._file = file
        self._clock = clock
        self._confirmed: set[int] = set()
        self._turn = 0
        self._absences: dict[int, _Absence] = {}
        self._refused: dict[int, tuple[str, Reason]] = {}
        self._members, self._holders = _recall(file)

    @property
    def roster(self) -> Roster:
        """The nodes that are let in."""
        return Roster(self._members)

    @property
    def refusals(self) -> Refusals:
        """The nodes that are not, and why."""
        return Refusals(self._refused)

    def look(self, onegate: OneGate, nodes: Sequence[int]) -> None:
        """Bring the registry, and the roster with it, in line with the service's `nodes`.

        No nodes at all is what OneGate says when it knows nothing, so it changes nothing. Raises `OneGateError` when
        OneGate does not answer. A registry that does not answer is asked again at the next look.
        """
        if not nodes:
            return
        self._refused = {vm: refusal for vm, refusal in self._refused.items() if vm in nodes}
        before = (dict(self._members), len(self._holders))
        try:
            for vm in self._gone(onegate, nodes):
                self._unregister(vm, self._members[vm])
                self._forget(vm)
            for vm in self._due(nodes):
                self._consider(onegate, vm)
        except OSError as error:
            log.warning("Nodes cannot be registered now: %s", error)
        finally:
            if before != (self._members, len(self._holders)):
                self._keep()

    def _gone(self, onegate: OneGate, nodes: Sequence[int]) -> list[int]:
        """Return the members whose VMs were missing for long, and of which OneGate says that they are gone."""
        missing = [vm for vm in self._members if vm not in nodes]
        now = self._clock()
        self._absences = {vm: self._absences.get(vm, _Absence(now)) for vm in missing}
        gone = []
        for vm, absence in self._absences.items():
            absence.looks += 1
            if absence.looks >= _LOOKS and now - absence.since >= _SECONDS:
                try:
                    onegate.attributes(vm)
                    self._absences[vm] = _Absence(now)  # it is there after all: to be asked again after as long
                except OneGateError as error:
                    if not error.answered:
                        raise
                    if error.no_such_vm:
                        gone.append(vm)
        return gone

    def _due(self, nodes: Sequence[int]) -> Iterable[int]:
        fresh = [vm for vm in nodes if vm not in self._confirmed]
        known = [vm for vm in nodes if vm in self._confirmed]
        self._turn += 1
        return itertools.chain(fresh, known[self._turn % len(known) :][:1] if known else ())

    def _consider(self, onegate: OneGate, vm: int) -> None:
        """Let a VM's node in, or note why not."""
        try:
            published = onegate.attributes(vm).get(PUBLIC_KEY.name, "")
        except OneGateError as error:
            if not error.answered:
                raise
            log.warning("VM %d: %s", vm, error.sentence)
            return
        if not published:
            return
        try:
            self._enrol(vm, published)
            self._confirmed.add(vm)
            self._refused.pop(vm, None)
        except _NotLetInError as refusal:
            if self._refused.get(vm) != (refusal.key, refusal.reason):
                log.warning("VM %d is not let in: %s", vm, refusal.reason.sentence)
            self._refused[vm] = (refusal.key, refusal.reason)

    def _enrol(self, vm: int, published: str) -> None:
        try:
            key = PublicKey.read(published)
        except ValueError as error:
            raise _NotLetInError("", Reason.INVALID) from error
        name, member = key.fingerprint, self._members.get(vm)
        if member is not None and member.key == name and vm in self._confirmed:
            return
        if self._holders.get(name, vm) != vm:
            raise _NotLetInError(name, Reason.TAKEN)
        if name not in self._holders and sum(holder == vm for holder in self._holders.values()) >= _MOST_KEYS:
            raise _NotLetInError(name, Reason.MANY)
        replaced = member if member is not None and member.key != name else None
        if replaced is not None and self._door.is_online(replaced.node_id):
            raise _NotLetInError(name, Reason.HELD)
        try:
            node_id = self._door.register(key.pem)
        except ValueError as error:
            if member is not None and member.key == name:
                self._forget(vm)
            spent = isinstance(error, KeyRefusedError) and error.spent
            raise _NotLetInError(name, Reason.SPENT if spent else Reason.UNKNOWN) from error
        self._holders[name] = vm
        self._members[vm] = Member(node_id, name)
        if replaced is not None:
            self._unregister(vm, replaced)

    def _unregister(self, vm: int, member: Member) -> None:
        try:
            self._door.unregister(member.node_id)
        except ValueError as error:
            log.warning("VM %d: its node %s cannot be unregistered: %s", vm, member.node_id, error)

    def _forget(self, vm: int) -> None:
        del self._members[vm]
        self._absences.pop(vm, None)
        self._confirmed.discard(vm)

    def _keep(self) -> None:
        content = {
            "members": {vm: [member.node_id, member.key] for vm, member in self._members.items()},
            "holders": self._holders,
        }
        try:
            write_atomic(self._file, json.dumps(content))
        except OneflowerError as error:
            log.warning("Who was let in cannot be kept: %s", error.sentence)


def _recall(file: Path) -> tuple[dict[int, Member], dict[str, int]]:
    """Return members and holders as they were kept. Without the file there was nobody: Flower's state is beside it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        members = {int(vm): Member(str(node_id), str(key)) for vm, (node_id, key) in content["members"].items()}
        return members, {str(key): int(vm) for key, vm in content["holders"].items()}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read, so all nodes are registered anew: %s", file, error)
        return {}, {}
