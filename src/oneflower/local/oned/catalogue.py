"""What VMs are made of: VM templates, images, networks, datastores, and the one user."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import Image

if TYPE_CHECKING:
    from oneflower.local.clock import Clock
    from oneflower.local.store import Store

NETWORK = "loopback"
DATASTORES = {0: "system", 1: "default", 2: "files"}


class Catalogue:
    """All VM templates, images and networks."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.templates = store.records("template")
        self.images = {number: Image(number, **record) for number, record in store.records("image").items()}
        self.networks = {0: NETWORK} | {number: str(r["NAME"]) for number, r in store.records("network").items()}
        self.token_password = store.setting("token_password", secrets.token_hex(32))
        self.user: dict[str, str] = {"TOKEN_PASSWORD": self.token_password}

    def save_template(self, template: dict[str, Any], number: int | None = None) -> int:
        """Insert or replace a VM template and return its id."""
        number = self._store.next_id("vm_template") if number is None else number
        self.templates[number] = template
        self._store.save_record("template", number, template)
        return number

    def template(self, number: int, call: str) -> dict[str, Any]:
        """Return a VM template. Raises `CloudError` 404."""
        if number not in self.templates:
            raise CloudError(404, f"[{call}] Error getting virtual machine template [{number}].")
        return self.templates[number]

    def delete_template(self, number: int) -> None:
        """Remove a VM template. Raises `CloudError` 404."""
        self.template(number, "one.template.delete")
        del self.templates[number]
        self._store.delete_record("template", number)

    def save_image(self, template: dict[str, Any], state: int) -> int:
        """Store the description of an image and return its id."""
        image = Image(self._store.next_id("image"), str(template["NAME"]), template, state, int(self._clock.now()))
        self.images[image.id] = image
        record = {"name": image.name, "template": image.template, "state": image.state, "regtime": image.regtime}
        self._store.save_record("image", image.id, record)
        return image.id

    def delete_image(self, number: int) -> None:
        """Remove an image. Raises `CloudError` 404."""
        if number not in self.images:
            raise CloudError(404, f"[one.image.delete] Error getting image [{number}].")
        del self.images[number]
        self._store.delete_record("image", number)

    def add_network(self, name: str) -> int:
        """Store a virtual network and return its id. It is another name for the loopback of this machine."""
        number = self._store.next_id("network") + 1
        self.networks[number] = name
        self._store.save_record("network", number, {"NAME": name})
        return number
