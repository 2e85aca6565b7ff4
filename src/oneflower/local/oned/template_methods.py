"""The core's methods about VM templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.corexml import text, vm_template_xml
from oneflower.local.oned.ownership import SharedMethods, Shelf, not_a_name
from oneflower.local.oned.pools import chosen, pool
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.vmtext import parse_template

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Access, VmTemplate
    from oneflower.local.oned.ownership import Method


class TemplateMethods:
    """A method for each call; the table is at the end."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue

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

    def delete(self, asking: Asking, number: int, *_: Any) -> int:
        """Remove a VM template."""
        self._may(asking, number, Right.MANAGE)
        self._catalogue.delete_template(number)
        return number

    def info(self, asking: Asking, number: int, *_: Any) -> str:
        """Return a VM template."""
        return text(vm_template_xml(self._may(asking, number, Right.USE, past_lock=True)))

    def pool(self, asking: Asking, *which: int) -> str:
        """Return VM templates."""
        found = chosen(self._catalogue.rights, asking, Kind.TEMPLATE, self._catalogue.templates, *which[:3])
        return pool("VMTEMPLATE_POOL", map(vm_template_xml, found))

    def clone(self, asking: Asking, number: int, name: str, *_: Any) -> int:
        """Copy a VM template under another name."""
        template = self._may(asking, number, Right.USE)
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
        *_: Any,
    ) -> int:
        """Create a VM from a template."""
        return self._compute.instantiate(number, name, extra, hold=hold, user=asking.user).id

    def _may(self, asking: Asking, number: int, right: Right, *, past_lock: bool = False) -> VmTemplate:
        template = self._catalogue.template(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.TEMPLATE, number, template.access, past_lock))
        return template

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        templates, keep = self._catalogue.templates, self._catalogue.keep
        shelf = Shelf(Kind.TEMPLATE, "one.template", self._catalogue.template, templates.values, keep)
        return {
            **SharedMethods(self._catalogue, shelf, self._compute.clock.now).table(),
            "one.template.allocate": self.allocate,
            "one.template.update": self.update,
            "one.template.delete": self.delete,
            "one.template.info": self.info,
            "one.template.clone": self.clone,
            "one.template.instantiate": self.instantiate,
            "one.templatepool.info": self.pool,
        }


def changed(asking: Asking, before: dict[str, Any], content: str, append: int) -> dict[str, Any]:
    """Return a template after an update: replaced (0), or with attributes added (1). Raises `CloudError`."""
    if append not in (0, 1):
        raise CloudError(400, f"[{asking.call}] Wrong update type")
    try:
        fresh = parse_template(content)
    except CloudError as error:
        raise CoreError(f"[{asking.call}] Cannot update template. {error.message}") from error
    return {**before, **fresh} if append else fresh


def check_name(call: str, what: str, name: Any, access: Access, known: Any) -> None:
    """Raise `CloudError` unless a new object has a name, and its owner has no other with that name."""
    if not name:
        raise CoreError(f"[{call}] Cannot create {what.lower()} without a NAME.")
    if reason := not_a_name(str(name)):
        raise CoreError(f"[{call}] {reason}")
    for thing in known.values():
        if thing.name == name and thing.access.uid == access.uid:
            raise CoreError(f"[{call}] NAME is already taken by {what} {thing.id}.")
