"""How a SuperNode finds the SuperLink of its service, and checks that the address is the SuperLink's own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.attributes import ENDPOINT, READY, TLS, VERSION
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import split_address
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.roles import COORDINATOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.values import Settings

PATIENCE = 600.0
CLOSELY = Backoff(first=0.1, cap=5, factor=1.5)  # for attributes that the SuperLink is about to publish


@dataclass(frozen=True)
class Found:
    """A SuperLink: its host:port, its VM and that VM's attributes. Outside the service there is no VM."""

    endpoint: str
    vm: int | None = None
    published: Mapping[str, str] = field(default_factory=dict)


def backoff(settings: Settings) -> Backoff:
    """Return the growing waits for a SuperLink (FL_EDGE_BACKOFF)."""
    fixed = settings.text("FL_EDGE_BACKOFF") == "fixed"
    cap = float(settings.integer("FL_EDGE_MAX_BACKOFF"))
    return Backoff(first=min(1.0, cap) if fixed else 0.2, factor=1.0 if fixed else 2.0, cap=cap)


class Discovery:
    """Finds the SuperLink for the SuperNode on `machine`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def find(self) -> Found:
        """Return it. Raises `OneflowerError`."""
        settings = self._machine.settings
        address = settings.text("FL_SUPERLINK_ADDRESS")
        if invitation := settings.text("FL_INVITATION"):
            address = address or Invitation.parse(invitation).endpoint
        if address:
            return Found(address, None, {TLS.name: settings["FL_TLS_ENABLED"]})
        if self._machine.onegate is None:
            raise OneflowerError(
                "No SuperLink found: this VM has no OneGate and FL_SUPERLINK_ADDRESS is empty.",
                "Set FL_SUPERLINK_ADDRESS=host:port (and FL_SSL_CA_CERTFILE), or deploy through the service template.",
            )
        found = self._machine.insist(_published, PATIENCE, backoff(settings))
        endpoint = found.endpoint
        try:
            host, _ = split_address(endpoint)
        except ValueError as error:
            raise OneflowerError(
                f"The SuperLink published an address that is not valid: {endpoint!r}.",
                "Recover the SuperLink's VM.",
                ExitCode.CLOUD,
            ) from error
        self._check_address(found, host)
        wanted, theirs = settings.text("FLOWER_VERSION"), VERSION.read(found.published)
        if theirs != wanted:
            raise OneflowerError(
                f"The SuperLink runs Flower {theirs}, this SuperNode {wanted}.",
                "Set FLOWER_VERSION on the service level only, so that it is the same on every VM.",
                ExitCode.CLOUD,
            )
        return found

    def _check_address(self, found: Found, host: str) -> None:
        """Refuse an address that is not the SuperLink's own.

        Every VM of the service can write the SuperLink's attributes. No VM can change what OpenNebula says about a VM:
        its addresses and its context.
        """
        superlink = found.vm
        assert superlink is not None  # noqa: S101 - OneGate reported it
        waits = backoff(self._machine.settings)
        own = self._machine.insist(lambda onegate: onegate.addresses(superlink), PATIENCE, waits)
        if host in own:
            return
        context = self._machine.insist(lambda onegate: onegate.context(superlink), PATIENCE, waits)
        with suppress(ValueError):
            if split_address(context.get("FL_FLEET_API_ADDRESS", ""))[0] == host:
                return
        raise OneflowerError(
            f"The SuperLink's VM {superlink} published the address {host}, which is not one that OpenNebula gave it"
            f" ({', '.join(sorted(own)) or 'none'}).",
            "Another VM of the service may have changed it: restart the SuperLink's VM, which publishes it again. "
            "If the address is right, set it in FL_FLEET_API_ADDRESS.",
            ExitCode.CONFLICT,
        )


def _published(onegate: OneGate) -> Found:
    role = onegate.service().get(COORDINATOR)
    if role is None or not role.nodes:
        raise OneGateError("The service has no SuperLink VM.", "Recover or redeploy the service.", heals=True)
    vm = role.nodes[0]
    published = onegate.attributes(vm)
    endpoint = ENDPOINT.read(published)
    if not READY.is_set(published) or not endpoint:
        raise OneGateError("The SuperLink is not ready yet.", "Wait for it, or look at its log.", heals=True)
    return Found(endpoint, vm, published)
