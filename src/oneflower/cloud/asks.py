"""Apps that wait for an approval on a site's own machines, and how the site's operator approves them there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower.cloud.audit import audited
from oneflower.cloud.service import Service
from oneflower.opennebula.tokens import SHORTEST_PASSWORD, make_token
from oneflower_appliance.app_bundle import Bundle
from oneflower_appliance.approvals import APPROVED, FOLDER, PATH, SUFFIX, Ask, add_approval
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.site_policy import ASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.site_folder import Approved, SiteFolder
    from oneflower.cloud.status import VmStatus

_SHORTEST = 8  # digits of a content hash that name an app


@dataclass(frozen=True)
class Waiting:
    """An app that waits on a machine of a service."""

    service: str
    machine: str
    vm: int
    ip: str
    ask: Ask


class SiteMachines:
    """The machines of a user's own services that ask before an app runs."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def _machines(self) -> Iterator[tuple[Service, VmStatus]]:
        for service in Service.all(self._cloud):
            for vm in service.status().vms:
                if vm.policy.endswith(f" {ASK}"):
                    yield service, vm

    def waiting(self) -> list[Waiting]:
        """Return what waits, the oldest first."""
        found = [
            Waiting(service.name, vm.name, vm.id, vm.ip, ask) for service, vm in self._machines() for ask in vm.asks
        ]
        return sorted(found, key=lambda one: (one.ask.since, one.machine))

    def bundle(self, name: str) -> Bundle | None:
        """Return the bundle of an app that waits, named by the first digits of its content hash; None if none does.

        Raises `OneflowerError` if it cannot be read from here.
        """
        named = len(name) >= _SHORTEST and not set(name) - set("0123456789abcdef")
        found = [one for one in self.waiting() if one.ask.content.startswith(name)] if named else []
        if not found:
            return None
        if len({one.ask.content for one in found}) > 1:
            raise OneflowerError(f"{name} names more than one app that waits.", "Give all digits.")
        content = found[0].ask.content
        packed = next(filter(None, (self._cloud.surroundings.held(one.vm, content) for one in found)), None)
        if packed is None:
            raise OneflowerError(
                f"The files of {found[0].ask.app} are on the machine {found[0].machine}, and cannot be read from here.",
                f"Fetch them, `scp root@{found[0].ip}:/var/lib/oneflower/{FOLDER}/{content}{SUFFIX} .`, and approve "
                "that file. Or approve the folder of the app, if you have it.",
                ExitCode.ENVIRONMENT,
            )
        bundle = Bundle.read(packed)
        if bundle.content_hash != content:
            raise OneflowerError(f"The files of {found[0].ask.app} are not those that it waits with.", "Ask again.")
        return bundle

    def approve(self, folder: SiteFolder, bundle: Bundle) -> tuple[Approved, list[str]]:
        """Approve an app: for later deployments, and now on all machines that ask. Returns their names, too.

        Raises `OneflowerError`, and approves nothing, if that cannot be recorded.
        """
        content, app = bundle.content_hash, bundle.label
        with audited(self._cloud, "policy.approve", "", app=app, content=content, policy=str(folder.path)) as said:
            done = folder.approve(bundle)
            machines = [(service, vm) for service, vm in self._machines() if vm.state == "running"]
            names = [self.approve_on(vm.id, content, f"{service.name}/{vm.name}") for service, vm in machines]
            said["machines"] = ", ".join(names)
        return done, names

    def approve_on(self, number: int, content: str, name: str) -> str:
        """Approve an app on a machine, and return the machine's name. Raises `OneflowerError` if that cannot be."""
        core = self._cloud.core
        me, password = core.token_password
        vm = core.vm(number)
        if vm is None or vm.creator != me or len(password) < SHORTEST_PASSWORD:
            raise OneflowerError(
                f"Only the user who created {name}, and has a TOKEN_PASSWORD of {SHORTEST_PASSWORD} characters, "
                "can approve an app on it while it runs.",
                "It is approved for what is deployed from now on. On the machine, root can add the content hash to "
                f"{PATH}.",
                ExitCode.CONFLICT,
            )
        token = make_token(password, vm.id, vm.started)
        core.set_vm_attribute(number, APPROVED, add_approval(token, vm.id, content, vm.attributes.get(APPROVED, "")))
        return name
