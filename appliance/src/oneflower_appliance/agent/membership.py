"""How a SuperNode becomes known to its SuperLink: it publishes a key, and waits until the SuperLink has admitted it."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from oneflower_appliance.agent.authority import TLS_FOLDER
from oneflower_appliance.agent.diagnosis import EARLIEST, LATEST, RefusedError
from oneflower_appliance.agent.discovery import CLOSELY, PATIENCE
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.roster import Roster
from oneflower_appliance.attributes import NODES, PUBLIC_KEY, REFUSED
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.refusals import Reason, Refusals

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.agent.discovery import Found
    from oneflower_appliance.agent.link import Probe
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.agent.onegate import OneGate

log = logging.getLogger(__name__)

_MOST_KEYS = 5


class Membership:
    """The membership of the SuperNode on `machine`. `key` is None where no key is needed, or before `introduce`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._admitted_as = ""
        self.key: NodeKey | None = None

    @property
    def is_lost(self) -> bool:
        """Whether its key was dropped, so it has to introduce itself again."""
        return self.key is not None and not self.key.path.exists()

    @property
    def renewable(self) -> NodeKey | None:
        """The key, if it can be changed without a person: if the SuperLink of this service admitted it."""
        return self.key if self._admitted_as else None

    def retire(self) -> None:
        """Have this node introduce itself with another key. It keeps the one before until the other is admitted."""
        if self.key is not None:
            self.key.path.replace(self._before)

    @property
    def _before(self) -> Path:
        return self._machine.home / TLS_FOLDER / "node.key.before"

    def introduce(self) -> str:
        """Publish the key of this node; make one if there is none."""
        machine = self._machine
        if not machine.settings.flag("FL_SUPERNODE_AUTH"):
            return "not needed (FL_SUPERNODE_AUTH=NO)"
        key = self._make_key()
        if (
            machine.onegate is None
            or machine.settings.text("FL_SUPERLINK_ADDRESS")
            or machine.settings.text("FL_INVITATION")
        ):
            return "its own key"
        return machine.publish({PUBLIC_KEY.name: key.published})

    def _make_key(self) -> NodeKey:
        folder = self._machine.home / TLS_FOLDER
        self.key = NodeKey.of(folder / "node.key")
        write_atomic(folder / "node.pub", self.key.public.pem, SHARED)
        return self.key

    def wait(self, found: Found) -> str:
        """Wait until the SuperLink has registered this node's key; outside its service that is done by hand."""
        if self.key is None:
            return "not needed (FL_SUPERNODE_AUTH=NO)"
        machine, superlink = self._machine, found.vm
        if machine.onegate is None or superlink is None:
            path = machine.home / TLS_FOLDER / "node.pub"
            log.warning(
                "This SuperNode is not a VM of the SuperLink's service. Register it by hand, on the SuperLink's "
                "machine: flwr supernode register %s (the file is on this machine)", path,
            )  # fmt: skip
            return "to be registered by hand"
        vm_id, key, tries = int(machine.context["VMID"]), self.key, itertools.count(1)

        def admitted(onegate: OneGate) -> str:
            nonlocal key
            published = onegate.attributes(superlink)
            refused, reason = Refusals.recall(REFUSED.read(published)).of.get(vm_id, ("", None))
            if refused == key.public.fingerprint and reason in (Reason.SPENT, Reason.TAKEN):
                if next(tries) > _MOST_KEYS:
                    raise OneGateError(
                        f"The SuperLink refused {_MOST_KEYS} keys of this SuperNode.",
                        "See the SuperLink's log for the reason.",
                        heals=False,
                    )
                key.path.unlink(missing_ok=True)
                key = self._make_key()
                onegate.publish({PUBLIC_KEY.name: key.published})
                raise OneGateError("The SuperLink refused this SuperNode's key; it makes another.", "", heals=True)
            if refused == key.public.fingerprint and reason is Reason.MANY and self._before.exists():
                key = self._take_back()
                onegate.publish({PUBLIC_KEY.name: key.published})
                raise OneGateError("The SuperLink takes no other key; the node keeps its key.", "", heals=True)
            member = Roster.recall(NODES.read(published)).members.get(vm_id)
            if member is None or member.key != key.public.fingerprint:
                raise OneGateError("The SuperLink has not registered this SuperNode yet.", "", heals=True)
            return member.node_id

        self._admitted_as = machine.insist(admitted, PATIENCE, CLOSELY)
        self._before.unlink(missing_ok=True)
        return f"as node {self._admitted_as}"

    def _take_back(self) -> NodeKey:
        """Return the key before, which lives from now on."""
        log.warning("The SuperLink has had too many keys of this machine. Replace the VM to have its key changed.")
        self._before.replace(self._machine.home / TLS_FOLDER / "node.key")
        key = self._make_key()
        key.path.touch()
        return key

    def diagnose(self, cause: OneflowerError, endpoint: str, probe: Probe) -> OneflowerError:
        """Return why Flower ended, and correct it if possible: a refused key is dropped.

        Flower never accepts a key again after it was unregistered, so the node needs another key to come back.
        """
        if not isinstance(cause, RefusedError) or self.key is None or not self._admitted_as:
            return cause
        try:
            ahead = probe.clock_difference(endpoint)
            still_open = probe.lists_online(endpoint, self._admitted_as)
        except (OSError, ValueError, TypeError):
            return cause
        if not EARLIEST < ahead < LATEST:
            return OneflowerError(
                f"This machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the SuperLink's, "
                "so the SuperLink refuses the signatures of this SuperNode.",
                "Synchronise the clocks of both machines (NTP).",
                ExitCode.ENVIRONMENT,
            )
        if still_open:
            return OneflowerError(
                "The SuperLink refused this SuperNode because an earlier process of it still counts as online.",
                "It retries; within a minute the earlier process no longer counts.",
                ExitCode.ENVIRONMENT,
            )
        self.key.path.unlink(missing_ok=True)
        return OneflowerError(
            "The SuperLink no longer accepts this SuperNode's key.",
            "The SuperNode makes another key and introduces itself again.",
            ExitCode.ENVIRONMENT,
        )
