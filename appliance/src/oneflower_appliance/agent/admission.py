"""Admits the SuperNodes of this service only.

At each look it registers the key of every new node of the service, checks the key of one known node (a VM that was
created again has a new key), and unregisters nodes that are gone. The cost per node does not grow with the federation.

Flower never accepts a key again after it was unregistered, so a node is unregistered only when it is certainly gone.
Members of a service can write each other's attributes. So a key belongs forever to the VM that held it first, and the
key of a node that is online cannot be changed. An error of one node never keeps another node out.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.agent.link import KeyRefusedError
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.roster import Member, Roster
from oneflower_appliance.attributes import PUBLIC_KEY
from oneflower_appliance.audit import REFUSED
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.public_key import PublicKey
from oneflower_appliance.refusals import Reason, Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.audit import AuditLog

log = logging.getLogger(__name__)

_LOOKS, _SECONDS = 3, 60.0  # looks and seconds that a VM must be missing before OneGate is asked whether it is gone
_MOST_KEYS = 50  # of one VM: each takes a row in Flower's state, forever


@dataclass
class _Absence:
    since: float
    looks: int = 0


class _NotAdmittedError(Exception):
    def __init__(self, key: str, reason: Reason) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


class Admission:
    """Keeps `roster` and `refusals`. What must survive a restart is in `file`, which no other member can write."""

    def __init__(
        self,
        api: SuperLinkApi,
        file: Path,
        clock: Callable[[], float] = time.monotonic,
        audit: AuditLog | None = None,
    ) -> None:
        self._api = api
        self._audit = audit
        self._file = file
        self._clock = clock
        self._confirmed: set[int] = set()
        self._turn = 0
        self._absences: dict[int, _Absence] = {}
        self._refused: dict[int, tuple[str, Reason]] = {}
        self._members, self._holders = _recall(file)

    @property
    def roster(self) -> Roster:
        """The admitted nodes."""
        return Roster(self._members)

    @property
    def refusals(self) -> Refusals:
        """The refused nodes, with the reasons."""
        return Refusals(self._refused)

    def look(self, onegate: OneGate, nodes: Sequence[int]) -> None:
        """Make the registry, and the roster with it, match the service's `nodes`.

        An empty list of nodes changes nothing: OneGate sends one when it knows nothing. Raises `OneGateError` when
        OneGate does not answer. If the registry does not answer, the next look tries again.
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
        """Return the members whose VMs were missing for long and are gone according to OneGate."""
        missing = [vm for vm in self._members if vm not in nodes]
        now = self._clock()
        self._absences = {vm: self._absences.get(vm, _Absence(now)) for vm in missing}
        gone = []
        for vm, absence in self._absences.items():
            absence.looks += 1
            if absence.looks >= _LOOKS and now - absence.since >= _SECONDS:
                try:
                    onegate.attributes(vm)
                    self._absences[vm] = _Absence(now)  # it exists after all: ask again after the same time
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
        """Admit a VM's node, or record why not."""
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
        except _NotAdmittedError as refusal:
            if self._refused.get(vm) != (refusal.key, refusal.reason):
                log.warning("VM %d was not admitted: %s", vm, refusal.reason.sentence)
                self._record(vm, refusal)
            self._refused[vm] = (refusal.key, refusal.reason)

    def _record(self, vm: int, refusal: _NotAdmittedError) -> None:
        if self._audit is not None:
            told = {"by": "the agent of this SuperLink", "vm": str(vm), "key": refusal.key}
            try:
                self._audit.write("node.admit", REFUSED, **told, why=refusal.reason.sentence)
            except OneflowerError as error:
                log.error("%s", error.sentence)  # noqa: TRY400 - for people

    def _enrol(self, vm: int, published: str) -> None:
        try:
            key = PublicKey.read(published)
        except ValueError as error:
            raise _NotAdmittedError("", Reason.INVALID) from error
        name, member = key.fingerprint, self._members.get(vm)
        if member is not None and member.key == name and vm in self._confirmed:
            return
        if self._holders.get(name, vm) != vm:
            raise _NotAdmittedError(name, Reason.TAKEN)
        if name not in self._holders and sum(holder == vm for holder in self._holders.values()) >= _MOST_KEYS:
            raise _NotAdmittedError(name, Reason.MANY)
        replaced = member if member is not None and member.key != name else None
        if replaced is not None and self._api.is_online(replaced.node_id):
            raise _NotAdmittedError(name, Reason.HELD)
        try:
            node_id = self._api.register(key.pem)
        except ValueError as error:
            if member is not None and member.key == name:
                self._forget(vm)
            spent = isinstance(error, KeyRefusedError) and error.spent
            raise _NotAdmittedError(name, Reason.SPENT if spent else Reason.UNKNOWN) from error
        self._holders[name] = vm
        self._members[vm] = Member(node_id, name)
        if replaced is not None:
            self._unregister(vm, replaced)

    def _unregister(self, vm: int, member: Member) -> None:
        try:
            self._api.unregister(member.node_id)
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
            log.warning("The list of admitted nodes cannot be saved: %s", error.sentence)


def _recall(file: Path) -> tuple[dict[int, Member], dict[str, int]]:
    """Return the saved members and holders. Without the file there were none: Flower's state is next to it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        members = {int(vm): Member(str(node_id), str(key)) for vm, (node_id, key) in content["members"].items()}
        return members, {str(key): int(vm) for key, vm in content["holders"].items()}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read, so all nodes are registered again: %s", file, error)
        return {}, {}
