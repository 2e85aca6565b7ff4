"""The core's methods about images. Only descriptions are stored: machines boot from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned import image_files
from oneflower.local.oned.corexml import image_xml, text
from oneflower.local.oned.models import DatastoreType
from oneflower.local.oned.ownership import SharedMethods, Shelf, changed, check_name
from oneflower.local.oned.pools import chosen, pool
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.vms import disks_of
from oneflower.local.oned.vmtext import parse_template
from oneflower.opennebula.states import ImageState

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from oneflower.local.oned.catalogue import Catalogue
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Image
    from oneflower.local.oned.ownership import Method

_FILES = ("KERNEL", "RAMDISK", "CONTEXT")


def image_shelf(catalogue: Catalogue) -> Shelf:
    """Return where the images are, for what can be done with anything that has an owner."""
    return Shelf(Kind.IMAGE, "one.image", catalogue.image, catalogue.images.values, catalogue.keep)


class ImageMethods:
    """A method for each call; the table is at the end."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue

    def allocate(self, asking: Asking, content: str, datastore: int, *_: Any) -> int:
        """Store the description of an image."""
        template = parse_template(content)
        if datastore not in self._catalogue.datastores:
            raise CloudError(404, f"[one.image.allocate] Error getting datastore [{datastore}].")
        store = self._catalogue.datastores[datastore]
        if store.type == DatastoreType.SYSTEM:
            why = "New images can only be allocated in a files or image datastore."
            raise CoreError(f"[{asking.call}] Error allocating a new image. {why}")
        size = image_files.size(asking.call, template)
        if size > self._catalogue.room().free >> 20:
            raise CoreError(f"[{asking.call}] Not enough space in datastore")
        self._catalogue.rights.need_create(asking, Kind.IMAGE)
        self._catalogue.rights.need(asking, Want(Right.USE, Kind.DATASTORE, datastore, store.access))
        access = self._catalogue.access_of(asking.user)
        check_name(asking.call, "IMAGE", template.get("NAME"), access, self._catalogue.images)
        if store.type == DatastoreType.FILE and str(template.get("TYPE", "OS")).upper() not in _FILES:
            why = "Only IMAGES of type KERNEL, RAMDISK and CONTEXT can be registered in a FILE_DS datastore"
            raise CoreError(f"[{asking.call}] Error allocating a new image. {why}")
        error = image_files.copying(template, store.template)
        template |= {"SIZE": str(size)} | ({"ERROR": error} if error else {})
        return self._catalogue.save_image(template, ImageState.ERROR if error else ImageState.READY, access)

    def info(self, asking: Asking, number: int, *_: Any) -> str:
        """Return an image."""
        return text(self._shown(self._may(asking, number, Right.USE, past_lock=True)))

    def _shown(self, image: Image) -> Element:
        return image_xml(image, self._users(image))

    def _users(self, image: Image) -> list[int]:
        """Return the machines that an image is a disk of."""
        return [
            vm.id
            for vm in self._compute.vms.values()
            if any(str(disk.get("IMAGE_ID", "")) == str(image.id) for disk in disks_of(vm.template))
        ]

    def pool(self, asking: Asking, *which: int) -> str:
        """Return images."""
        found = chosen(self._catalogue.rights, asking, Kind.IMAGE, self._catalogue.images, *which[:3])
        return pool("IMAGE_POOL", map(self._shown, found))

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change an image's attributes."""
        image = self._may(asking, number, Right.MANAGE)
        fixed = {key: image.template[key] for key in ("NAME", "PATH", "SIZE") if key in image.template}
        image.template = changed(asking, image.template, content, append) | fixed
        self._catalogue.keep(image)
        return number

    def delete(self, asking: Asking, number: int, *_: Any) -> int:
        """Remove an image."""
        image = self._may(asking, number, Right.MANAGE)
        if users := self._users(image):
            raise CoreError(f"[{asking.call}] Cannot delete image. There are {len(users)} VMs using it.")
        self._catalogue.delete_image(number)
        return number

    def enable(self, asking: Asking, number: int, enabled: bool) -> int:  # noqa: FBT001
        """Enable or disable an image."""
        image = self._may(asking, number, Right.MANAGE)
        wanted, other = ImageState.READY, ImageState.DISABLED
        if not enabled:
            wanted, other = other, wanted
        if image.state not in (wanted, other):
            raise CloudError(500, f"[{asking.call}] Cannot {'enable' if enabled else 'disable'} image in its state")
        image.state = wanted
        self._catalogue.keep(image)
        return number

    def persist(self, asking: Asking, number: int, persistent: bool) -> int:  # noqa: FBT001
        """Make an image persistent or not."""
        image = self._may(asking, number, Right.MANAGE)
        image.persistent = persistent
        self._catalogue.keep(image)
        return number

    def _may(self, asking: Asking, number: int, right: Right, *, past_lock: bool = False) -> Image:
        image = self._catalogue.image(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.IMAGE, number, image.access, past_lock))
        return image

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            **SharedMethods(self._catalogue, image_shelf(self._catalogue), self._compute.clock.now).table(),
            "one.image.allocate": self.allocate,
            "one.image.info": self.info,
            "one.image.update": self.update,
            "one.image.delete": self.delete,
            "one.image.enable": self.enable,
            "one.image.persistent": self.persist,
            "one.imagepool.info": self.pool,
        }
