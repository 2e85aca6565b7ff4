"""The changes that OneFlow can make to any document: its owner, group, permissions and name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError, internal
from oneflower.local.oneflow.arguments import number_of

if TYPE_CHECKING:
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.models import Document

NEEDED = {"chown": "owner_id", "chgrp": "group_id", "chmod": "octet", "rename": "name"}
_NAMES = {"owner_id": "a UID", "group_id": "a GID", "octet": "an OCTET", "name": "a name"}


def is_given(change: str, options: dict[str, Any]) -> bool:
    """Whether a request has the option that a change needs."""
    return options.get(NEEDED[change]) not in (None, False)


def apply(documents: Documents, document: Document, change: str, options: dict[str, Any]) -> None:
    """Change a document. Raises `CloudError` 500."""
    if not is_given(change, options):
        raise CloudError(500, f"Action {change}: You have to specify {_NAMES[NEEDED[change]]}")
    if change == "rename":
        documents.rename(document, ruby.text(options["name"]))
    elif change == "chmod":
        octet = options["octet"]
        if not isinstance(octet, str | int) or isinstance(octet, bool):
            raise internal(ruby.no_method("[]", octet))
        documents.chmod(document, octet)
    else:
        owner = number_of(options["owner_id"]) if change == "chown" else -1
        documents.chown(document, owner, number_of(options.get("group_id") or -1))
