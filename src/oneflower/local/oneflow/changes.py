"""The changes that OneFlow can make to any document: its owner, group, permissions and name."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError, internal
from oneflower.local.oned.models import permission_bits
from oneflower.local.oned.ownership import SharedMethods, Shelf
from oneflower.local.oned.rights import Asking, Kind
from oneflower.local.oned.vm_methods import vm_shelf
from oneflower.local.oneflow.arguments import number_of
from oneflower.local.oneflow.models import SERVICE_TYPE, Document, node_ids, octet_of

if TYPE_CHECKING:
    from oneflower.local.oned.accounts import User
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents

NEEDED = {"chown": "owner_id", "chgrp": "group_id", "chmod": "octet", "rename": "name"}
_NAMES = {"owner_id": "a UID", "group_id": "a GID", "octet": "an OCTET", "name": "a name"}


def is_given(change: str, options: dict[str, Any]) -> bool:
    """Whether a request has the option that a change needs."""
    value = options.get(NEEDED[change])
    return value is not None and value is not False  # 0 is a user, and true in Ruby


class Changes:
    """Makes these changes, as far as the core allows them to a user."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        now = compute.clock.now
        shelf = Shelf(Kind.DOCUMENT, "one.document", documents.find, documents.every, documents.save, unique=False)
        self._documents = SharedMethods(compute.catalogue, shelf, now)
        self._vms = SharedMethods(compute.catalogue, vm_shelf(compute), now)
        self._compute = compute

    def apply(self, user: User, document: Document, change: str, options: dict[str, Any]) -> None:
        """Change a document. Raises `CloudError` 401, 404 or 500."""
        if not is_given(change, options):
            raise CloudError(500, f"Action {change}: You have to specify {_NAMES[NEEDED[change]]}")
        if change == "rename":
            self._documents.rename(Asking(user, "one.document.rename"), document.id, ruby.text(options["name"]))
        elif change == "chmod":
            octet = options["octet"]
            if not isinstance(octet, str | int) or isinstance(octet, bool):
                raise internal(ruby.no_method("[]", octet))
            bits = (int(bit) for bit in permission_bits(octet_of(octet)).values())
            self._documents.chmod(Asking(user, "one.document.chmod"), document.id, *bits)
        else:
            owner = number_of(options["owner_id"]) if change == "chown" else -1
            group = options.get("group_id")
            self._give(user, document, owner, -1 if group in (None, False) and group != 0 else number_of(group))

    def _give(self, user: User, document: Document, owner: int, group: int) -> None:
        """Change the owner or the group of a document; those of a service's VMs too, or of nothing."""
        before = document.access
        self._documents.chown(Asking(user, "one.document.chown"), document.id, owner, group)
        if document.type != SERVICE_TYPE:
            return
        numbers = [number for role in document.roles for number in node_ids(role) if number in self._compute.vms]
        try:
            for number in numbers:
                self._vms.chown(Asking(user, "one.vm.chown"), number, owner, group)
        except CloudError:
            with suppress(CloudError):
                self._documents.chown(Asking(user, "one.document.chown"), document.id, before.uid, before.gid)
            for number in numbers:
                with suppress(CloudError):
                    self._vms.chown(Asking(user, "one.vm.chown"), number, before.uid, before.gid)
            raise
