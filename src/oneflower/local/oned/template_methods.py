"""The core's methods about VM templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.corexml import text, vm_template_xml
from oneflower.local.oned.image_methods import image_shelf
from oneflower.local.oned.ownership import SharedMethods, Shelf, changed, check_name
from oneflower.local.oned.pools import chosen, pool
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.vms import images_of
from oneflower.local.oned.vmtext import parse_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Image, VmTemplate
    from oneflower.local.oned.ownership import Method


class TemplateMethods:
    """A method for each call; the table is at the end."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue
        templates, keep = self._catalogue.templates, self._catalogue.keep
        shelf = Shelf(Kind.TEMPLATE, "one.template", self._catalogue.template, templates.values, keep)
        self._shared = SharedMethods(self._catalogue, shelf, compute.clock.now)

    def allocate(self, asking: Asking, content: str, *_: Any) -> int:
        """Store a VM template."""
        template = parse_template(content)
        self._catalogue.rights.need_create(asking, Kind.TEMPLATE)
        access = self._catalogue.access_of(asking.user)
        check_name(asking.call, "TEMPLATE", template.get("NAME"), access, self._catalogue.templates)
        return self._catalogue.save_template(template, access)

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Replace a VM template, or add to it; its name stays."""
        template = self._may(asking, number, Right.MANAGE)
        template.body = changed(asking, template.body, content, append)
        template.body.pop("NAME", None)
        self._catalogue.keep(template)
        return number

    def delete(self, asking: Asking, number: int, images: bool = False) -> int:  # noqa: FBT001, FBT002
        """Remove a VM template, and with `images` also those of its disks."""
        template = self._may(asking, number, Right.MANAGE)
        if images:
            self._each_image(asking, template, "delete", self._delete_image)
        self._catalogue.delete_template(number)
        return number

    def _delete_image(self, asking: Asking, image: Image) -> None:
        self._catalogue.rights.need(asking, Want(Right.MANAGE, Kind.IMAGE, image.id, image.access))
        self._catalogue.delete_image(image.id)

    def chmod(self, asking: Asking, number: int, *bits: int) -> int:
        """Change permissions, and with a tenth value also those of the images of its disks."""
        self._shared.chmod(asking, number, *bits[:9])
        if any(bits[9:]):
            template = self._catalogue.template(number, asking.call)
            images = SharedMethods(self._catalogue, image_shelf(self._catalogue), self._compute.clock.now)
            self._each_image(asking, template, "chmod", lambda who, image: images.chmod(who, image.id, *bits[:9]))
        return number

    def _each_image(
        self, asking: Asking, template: VmTemplate, what: str, change: Callable[[Asking, Image], object]
    ) -> None:
        """Change each image of a VM template's disks. Raises `CloudError` 500 if some cannot be changed."""
        named = images_of(template.body, self._catalogue.images, asking.user)
        failed = []
        for image in {it.id: it for it in named if not isinstance(it, CloudError)}.values():
            try:
                change(asking, image)
            except CloudError:
                failed.append(image.id)
        if failed:
            raise CloudError(500, f"[{asking.call}] Cannot {what} image: {','.join(map(str, failed))}")

    def info(self, asking: Asking, number: int, *_: Any) -> str:
        """Return a VM template."""
        return text(vm_template_xml(self._may(asking, number, Right.USE, past_lock=True)))

    def pool(self, asking: Asking, *which: int) -> str:
        """Return VM templates."""
        found = chosen(self._catalogue.rights, asking, Kind.TEMPLATE, self._catalogue.templates, *which[:3])
        return pool("VMTEMPLATE_POOL", map(vm_template_xml, found))

    def clone(self, asking: Asking, number: int, name: str, images: bool = False) -> int:  # noqa: FBT001, FBT002
        """Copy a VM template under another name."""
        template = self._may(asking, number, Right.USE)
        if images and images_of(template.body, self._catalogue.images, asking.user):
            raise CloudError(501, "The local cloud does not implement copies of images")
        self._catalogue.rights.need_create(asking, Kind.TEMPLATE)
        access = self._catalogue.access_of(asking.user)
        check_name(asking.call, "TEMPLATE", name, access, self._catalogue.templates)
        return self._catalogue.save_template({**template.body, "NAME": name}, access)

    def instantiate(
        self,
        asking: Asking,
        number: int,
        name: str = "",
        hold: bool = False,  # noqa: FBT001, FBT002
        extra: str = "",
        persistent: bool = False,  # noqa: FBT001, FBT002
    ) -> int:
        """Create a VM from a template."""
        if persistent:
            raise CloudError(501, "The local cloud does not implement persistent copies of VM templates")
        return self._compute.instantiate(number, name, extra, hold=hold, user=asking.user).id

    def _may(self, asking: Asking, number: int, right: Right, *, past_lock: bool = False) -> VmTemplate:
        template = self._catalogue.template(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.TEMPLATE, number, template.access, past_lock))
        return template

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            **self._shared.table(),
            "one.template.chmod": self.chmod,
            "one.template.allocate": self.allocate,
            "one.template.update": self.update,
            "one.template.delete": self.delete,
            "one.template.info": self.info,
            "one.template.clone": self.clone,
            "one.template.instantiate": self.instantiate,
            "one.templatepool.info": self.pool,
        }
