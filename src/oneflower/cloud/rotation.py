"""Replaces what a running federation proves itself with, before its time: its CA, and the keys of its nodes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.cloud import superlink
from oneflower.cloud.audit import audited
from oneflower.events import Step, StepEnded, ignore
from oneflower.opennebula import NODES
from oneflower.printable import counted
from oneflower_appliance.ca_chain import fingerprint, newest
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.client import Cloud
    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus, VmStatus
    from oneflower.events import Notify

_LOOK = 0.3  # seconds between two looks


class Rotation:
    """The rotation of one service. Every method raises `OneflowerError`."""

    def __init__(self, cloud: Cloud, service: Service) -> None:
        self._cloud = cloud
        self._service = service

    def replace_ca(self, limit: float = 60) -> str:
        """Replace the SuperLink's CA by another one, which it signs. Returns the fingerprint of the new one."""
        with audited(self._cloud, "ca.replace", self._service.name, service=str(self._service.id)) as said:
            status = self._service.status()
            before = ca_fingerprint(status)
            self._order(status, "ca")
            deadline = time.monotonic() + limit
            while (now := ca_fingerprint(self._service.status())) == before:
                if time.monotonic() > deadline:
                    raise OneflowerError(
                        f"The SuperLink has not replaced its CA within {limit:.0f} s.",
                        f"Look with `oneflower logs {self._service.name}`. It may still do so.",
                        ExitCode.TIMEOUT,
                    )
                time.sleep(_LOOK)
            said["ca"] = now
            return now

    def replace_node_keys(self, limit: float = 600, notify: Notify = ignore) -> list[str]:
        """Have each SuperNode of the service make another key, and wait until it takes part with that.

        A node does so between two tasks. Returns the names of the SuperNodes. `limit` is in seconds.
        """
        with audited(self._cloud, "node.keys", self._service.name, service=str(self._service.id)) as said:
            status = self._service.status()
            before = {vm.id: vm for vm in _nodes(status)}
            if not before or status.settings.get("FL_SUPERNODE_AUTH") == "NO":
                raise OneflowerError(
                    f"{status.name} has no SuperNodes with keys that its SuperLink could replace.",
                    "Nodes of other sites keep the keys that were approved.",
                    ExitCode.CONFLICT,
                )
            self._order(status, "keys")
            notify(Step(f"{counted(len(before), 'SuperNode')}: another key, each between two tasks"))
            deadline = time.monotonic() + limit
            while left := [vm.name for vm in _nodes(self._service.status()) if not _has_another(vm, before)]:
                if time.monotonic() > deadline:
                    raise OneflowerError(
                        f"These have no other key after {limit:.0f} s: {', '.join(left)}.",
                        "They still get one when their tasks have ended. Look with `oneflower show "
                        f"{self._service.name}`; a node of an older image does not know of this.",
                        ExitCode.TIMEOUT,
                    )
                time.sleep(_LOOK)
            notify(StepEnded())
            names = [vm.name for vm in before.values()]
            said["nodes"] = ", ".join(names)
            return names

    def _order(self, status: FederationStatus, what: str) -> None:
        with superlink.reach(self._cloud.surroundings, status) as link:
            if link.change(f"/{what}/replace", {}) is None:
                raise OneflowerError(
                    "This SuperLink cannot do that: its oneflower is of an older release.",
                    "Deploy the federation from a current image.",
                    ExitCode.CONFLICT,
                )


def ca_fingerprint(status: FederationStatus) -> str:
    """Return the SHA-256 of the CA's certificate, by which others recognise the SuperLink. Raises `OneflowerError`."""
    if not status.ca:
        raise OneflowerError(
            f"{status.name} has no CA certificate, so another site could not tell it from others.",
            "Deploy it with FL_TLS_ENABLED=YES.",
            ExitCode.CONFLICT,
        )
    return fingerprint(newest(status.ca.encode(), f"The CA of {status.name}"))


def _nodes(status: FederationStatus) -> list[VmStatus]:
    return [vm for vm in status.vms if vm.role == NODES]


def _has_another(vm: VmStatus, before: dict[int, VmStatus]) -> bool:
    """Whether a SuperNode takes part with another key than before: then Flower knows it by another id."""
    return vm.ready and (vm.id not in before or vm.node_id != before[vm.id].node_id)
