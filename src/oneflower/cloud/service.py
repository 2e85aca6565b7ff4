"""One service of OneFlow, a federation or a part of one: its document, its VMs, and its status, from both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oneflower.cloud.diagnosis import causes
from oneflower.cloud.document import homes
from oneflower.cloud.reading import read_status
from oneflower.cloud.trust import trust
from oneflower.opennebula import ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.status import FederationStatus


class Service:
    """A service by its id. `seen` are the ids of all VMs that it was ever seen to have."""

    def __init__(self, cloud: Cloud, number: int, name: str) -> None:
        self.cloud = cloud
        self.id = number
        self.name = name
        self.seen: set[int] = set()

    @classmethod
    def all(cls, cloud: Cloud) -> Iterator[Service]:
        """Yield every service that is a federation, a coordinator or a site."""
        for document in cloud.oneflow.services():
            body = document["TEMPLATE"]["BODY"]
            if ServiceKind.of(body) is not None:
                yield cls(cloud, int(document["ID"]), document["NAME"])

    def find_body(self) -> dict[str, Any] | None:
        """Return the body of the document, or None if the service is gone."""
        document = self.cloud.oneflow.service(self.id)
        if document is None:
            return None
        body: dict[str, Any] = document["TEMPLATE"]["BODY"]
        self.seen |= set(homes(body))
        return body

    def body(self) -> dict[str, Any]:
        """Return the body of the document. Raises `OneflowerError` when the service is gone."""
        body = self.find_body()
        if body is None:
            raise OneflowerError(f"The federation {self.name!r} is gone.", "Somebody deleted it.", ExitCode.NOT_FOUND)
        return body

    def status(self, body: dict[str, Any] | None = None) -> FederationStatus:
        """Return its status, now or according to this `body`. Raises `OneflowerError` when it is gone."""
        if body is None:
            body = self.body()
        found = self.cloud.core.vms(homes(body))
        status = read_status(self.id, self.name, body, found, causes(self.cloud, body, found))
        if status.superlink is None or not status.control:
            return status
        return replace(status, trust=trust(self.cloud, self.id, self.name, found[status.superlink.id]))

    @property
    def remains(self) -> str:
        """What is left of it in the cloud, by id, and how to remove it by hand."""
        vms = ", ".join(map(str, sorted(self.seen)))
        left = (
            f"Left behind: service {self.id}{f' and VMs {vms}' if vms else ''}. Remove them: `oneflower down {self.id}`"
        )
        return (
            f"{left}, or VMs without their service: `onevm terminate --hard {vms.replace(' ', '')}`."
            if vms
            else f"{left}."
        )
