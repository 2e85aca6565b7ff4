"""VM templates, images, networks and datastores, from which VMs are created, and their owners."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.accounts import Accounts
from oneflower.local.oned.disks import complete
from oneflower.local.oned.models import ONEADMINS, Access, Datastore, Image, Network, VmTemplate
from oneflower.local.oned.rights import Asking, Kind, Right, Rights, Want
from oneflower.local.oned.vms import disks_of, images_of, networks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.local.clock import Clock
    from oneflower.local.oned.accounts import User
    from oneflower.local.store import Store

NETWORK = "loopback"
DATASTORES = {0: "system", 1: "default", 2: "files"}

Thing = VmTemplate | Image | Network | Datastore
_KINDS = {VmTemplate: "template", Image: "image", Network: "network", Datastore: "datastore"}


@dataclass(frozen=True)
class Room:
    """The room of a datastore, in bytes."""

    total: int
    free: int


class Catalogue:
    """All VM templates, images, networks, datastores, users and groups, and who may do what with them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.accounts = Accounts(store, clock.now)
        self.rights = Rights(store)
        self.templates = {n: VmTemplate(n, **_opened(record)) for n, record in store.records("template").items()}
        self.images = {n: Image(n, **_opened(record)) for n, record in store.records("image").items()}
        self.networks = {0: Network(0, NETWORK)}
        self.networks |= {n: Network(n, **_opened(record)) for n, record in store.records("network").items()}
        self.datastores = {number: Datastore(number, name) for number, name in DATASTORES.items()}
        self.datastores |= {n: Datastore(n, **_opened(record)) for n, record in store.records("datastore").items()}

    def room(self) -> Room:
        """Return how much room there is where this cloud keeps its files."""
        usage = shutil.disk_usage(self._store.folder)
        return Room(usage.total, usage.free)

    def access_of(self, user: User) -> Access:
        """Return the owner of the objects that a user creates."""
        return Access(user.id, user.gid, user.name, self.accounts.groups[user.gid].name)

    def keep(self, thing: Thing) -> None:
        """Write an object to the store after a change."""
        record = asdict(thing)
        self._store.save_record(_KINDS[type(thing)], record.pop("id"), record)

    def save_template(self, content: dict[str, Any], access: Access = ONEADMINS) -> int:
        """Store a new VM template, its NAME among the attributes, and return its id."""
        body = {key: value for key, value in content.items() if key != "NAME"}
        number = self._store.next_id("vm_template")
        template = VmTemplate(number, str(content.get("NAME", "")), body, access, int(self._clock.now()))
        self.keep(template)
        self.templates[number] = template
        return number

    def template(self, number: int, call: str) -> VmTemplate:
        """Return a VM template. Raises `CloudError` 404."""
        if number not in self.templates:
            raise CloudError(404, f"[{call}] Error getting virtual machine template [{number}].")
        return self.templates[number]

    def delete_template(self, number: int) -> None:
        """Remove a VM template. Raises `CloudError` 404."""
        self.template(number, "one.template.delete")
        self._store.delete_record("template", number)
        del self.templates[number]

    def need_parts(
        self, asking: Asking, template: VmTemplate, attributes: Mapping[str, Any], *, laid_over: bool
    ) -> None:
        """Raise `CloudError` unless everything that a VM is made of exists and the user may use it.

        `laid_over` says whether anything is laid over the template. That needs the right to create templates.
        """
        parts = [
            *((Kind.IMAGE, image) for image in images_of(attributes, self.images, asking.user)),
            *((Kind.NET, network) for network in networks_of(attributes, self.networks, asking.user)),
        ]
        wants = [Want(Right.USE, Kind.TEMPLATE, template.id, template.access)]
        if laid_over:
            wants.append(Want(Right.CREATE, Kind.TEMPLATE, -1, self.access_of(asking.user)))
        for kind, part in parts:
            if not isinstance(part, CloudError):
                wants.append(Want(Right.USE, kind, part.id, part.access))
        self.rights.need(asking, *wants)
        for _, part in parts:
            if isinstance(part, CloudError):
                raise part

    def disks(self, attributes: Mapping[str, Any], user: User) -> dict[str, list[dict[str, Any]]]:
        """Return the disks that a new VM with these attributes has, as its attribute DISK. Raises `CloudError`."""
        found: list[dict[str, Any]] = []
        for number, disk in enumerate(disks_of(attributes)):
            image = next((image for image in images_of({"DISK": disk}, self.images, user)), None)
            used = {each["TARGET"] for each in found}
            found.append(complete(disk, number, None if isinstance(image, CloudError) else image, used))
        return {"DISK": found} if found else {}

    def save_image(self, template: dict[str, Any], state: int, access: Access = ONEADMINS) -> int:
        """Store the description of a new image and return its id."""
        number, name = self._store.next_id("image"), str(template["NAME"])
        persistent = str(template.get("PERSISTENT", "")).upper() == "YES"
        image = Image(number, name, template, state, int(self._clock.now()), access, persistent)
        self.keep(image)
        self.images[number] = image
        return number

    def image(self, number: int, call: str) -> Image:
        """Return an image. Raises `CloudError` 404."""
        if number not in self.images:
            raise CloudError(404, f"[{call}] Error getting image [{number}].")
        return self.images[number]

    def delete_image(self, number: int) -> None:
        """Remove an image."""
        self._store.delete_record("image", number)
        del self.images[number]

    def add_network(self, name: str, template: dict[str, Any] | None = None, access: Access = ONEADMINS) -> int:
        """Store a new virtual network and return its id. It is another name for the loopback of this machine."""
        number = self._store.next_id("network") + 1
        network = Network(number, name, template or {}, access)
        self.keep(network)
        self.networks[number] = network
        return number

    def delete_network(self, number: int) -> None:
        """Remove a virtual network."""
        self._store.delete_record("network", number)
        del self.networks[number]


def _opened(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"access": Access.of(record["access"])}
