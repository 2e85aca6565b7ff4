"""What a user of OneFlow may do with documents: OneFlow asks the core in the user's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.oned.rights import Asking, Kind, Right, Want

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.accounts import User
    from oneflower.local.oned.catalogue import Catalogue
    from oneflower.local.oned.models import Access
    from oneflower.local.oneflow.models import Document

_CALLS = {Right.USE: "one.document.info", Right.MANAGE: "one.document.update"}


class DocumentAccess:
    """Decides about documents."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def need(self, user: User, document: Document, right: Right, call: str = "") -> None:
        """Raise `CloudError` 401 unless a user has a right on a document."""
        rights, past_lock = self._catalogue.rights, right is Right.USE
        reads = Want(Right.USE, Kind.DOCUMENT, document.id, document.access, past_lock=True)
        rights.need(Asking(user, _CALLS[Right.USE]), reads)
        want = Want(right, Kind.DOCUMENT, document.id, document.access, past_lock)
        rights.need(Asking(user, call or _CALLS[right]), want)

    def of_new(self, user: User, call: str) -> Access:
        """Return whose a new document of a user is. Raises `CloudError` 401 unless the user may create one."""
        self._catalogue.rights.need_create(Asking(user, call), Kind.DOCUMENT)
        return self._catalogue.access_of(user)

    def seen_by(self, user: User) -> Callable[[Document], bool]:
        """Return whether a document is in the lists that a user gets."""
        rights = self._catalogue.rights
        return lambda document: rights.sees(user, Kind.DOCUMENT, document.id, document.access)
