"""Brings the VM template of a role up to date, and leaves machines alone that still boot from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.cloud.machine import disks
from oneflower.cloud.reconcile import Change, digests, reconcile
from oneflower.opennebula import lint_vm_template, render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.undo import Undo


@dataclass(frozen=True)
class Wanted:
    """The VM template of a role: its name, its content, and the paths in it about which nothing was decided.

    `base` are the digests of what was registered last.
    """

    name: str
    content: Mapping[str, Any]
    undecided: list[tuple[str, ...]] = field(default_factory=list)
    base: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settled:
    """What is there now: its id, its content, what was changed, and the digests to keep."""

    id: int
    content: Mapping[str, Any]
    changes: tuple[Change, ...]
    base: Mapping[str, str]

    @property
    def diskless(self) -> bool:
        """Whether its machines have nothing to boot from."""
        return "DISK" not in self.content

    @property
    def asking(self) -> bool:
        """Whether it asks for inputs itself, so that Sunstone cannot deploy."""
        return bool(lint_vm_template(self.content))


class VmTemplates:
    """The VM templates of a cloud. With `dry_run` nothing is changed, and the id of what would be created is -1."""

    def __init__(self, cloud: Cloud, undo: Undo, *, force: bool, dry_run: bool) -> None:
        self._cloud = cloud
        self._undo = undo
        self._force = force
        self._dry_run = dry_run

    def find(self, name: str) -> tuple[int | None, dict[str, Any]]:
        """Return the id of a VM template and its content; None and nothing if there is none."""
        number = self._cloud.core.vm_templates().get(name)
        return number, {} if number is None else _listed(self._cloud.core.vm_template(number) or {})

    def settle(self, wanted: Wanted) -> Settled:
        """Create a VM template, or bring it up to date."""
        number, theirs = self.find(wanted.name)
        what, ours = f"VM template {wanted.name}", _listed(wanted.content)
        if number is None:
            fresh = -1 if self._dry_run else self._create(wanted.name, ours)
            return Settled(fresh, ours, (Change("create", what),), digests(ours))
        outcome = reconcile(what, wanted.base, theirs, ours, undecided=wanted.undecided, force=self._force)
        changes = outcome.changes
        if outcome.content != theirs:
            users = self._users(number, theirs) if disks(outcome.content)[:1] != disks(theirs)[:1] else ""
            if users:
                changes += (Change("aside", what, before=users, after=f"{wanted.name}-{number}"),)
                number = self._supersede(number, wanted.name, outcome.content)
            elif not self._dry_run:
                self._cloud.core.update_vm_template(number, render(outcome.content))
                back = (number, render(theirs))
                self._undo.changed(what, lambda: self._cloud.core.update_vm_template(*back))
        return Settled(number, outcome.content, changes, outcome.base)

    def sweep(self, name: str) -> list[Change]:
        """Remove the VM templates that were set aside and that nothing boots from any more."""
        found = self.aside(name)
        left = [each for each in found if not self._users(found[each], self._cloud.core.vm_template(found[each]) or {})]
        for each in left if not self._dry_run else ():
            self._cloud.core.delete_vm_template(found[each])
        return [Change("remove", f"VM template {each}") for each in left]

    def aside(self, name: str) -> dict[str, int]:
        """Return the VM templates that were set aside when `name` got a new image."""
        return {
            known: number for known, number in self._cloud.core.vm_templates().items() if known == f"{name}-{number}"
        }

    def _create(self, name: str, content: Mapping[str, Any]) -> int:
        number = self._cloud.core.create_vm_template(render({"NAME": name, **content}))
        self._undo.created(f"VM template {name}", lambda: self._cloud.core.delete_vm_template(number))
        return number

    def _users(self, number: int, content: Mapping[str, Any]) -> str:
        """Return what still boots from a VM template, or from its image, as text; empty if nothing does."""
        documents = self._cloud.oneflow.services()
        names = {
            document["NAME"]
            for document in documents
            if any(role.get("template_id") == number for role in document["TEMPLATE"]["BODY"].get("roles", ()))
        }
        if names:
            return ", ".join(sorted(names))
        image = next((disk.get("IMAGE_ID", "") for disk in disks(content)), "")
        found = self._cloud.core.find_image(int(image)) if image.isdigit() else None
        return found.users if found else ""

    def _supersede(self, number: int, name: str, content: Mapping[str, Any]) -> int:
        """Leave a VM template to the services that scale with it, under another name, and make a new one."""
        if self._dry_run:
            return -1
        self._cloud.core.rename_vm_template(number, f"{name}-{number}")
        self._undo.changed(f"the name of VM template {name}", lambda: self._cloud.core.rename_vm_template(number, name))
        fresh = self._create(name, content)
        self._cloud.core.share_vm_template(fresh, number)
        return fresh


def _listed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a VM template with its disks as a list, also where there is one: they are compared as a whole."""
    return {**content, "DISK": disks(content)} if "DISK" in content else dict(content)
