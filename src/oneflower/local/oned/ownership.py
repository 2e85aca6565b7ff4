"""The core's operations on anything that has an owner: rename, chmod, chown, lock. Source: SharedAPI.cc."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.models import Access, Lock, permission_bits
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.vmtext import parse_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oneflower.local.oned.catalogue import Catalogue

    Method = Callable[..., Any]

_NOT_IN_A_NAME = re.compile(r"[&|:\\\";/'#{}$<>\t\n\v\f\r]")
_LONGEST_NAME = 128
_LOCKS = {1: Right.USE, 2: Right.MANAGE, 3: 3, 4: Right.USE}  # a client's name for a level, and the stored value


class Owned(Protocol):
    """Something with an owner."""

    id: int
    name: str
    access: Access


@dataclass(frozen=True)
class Shelf:
    """Access to the objects of a kind: find one, list them, save one."""

    kind: Kind
    prefix: str
    find: Callable[[int, str], Any]
    every: Callable[[], Iterable[Owned]]
    keep: Callable[[Any], None]
    unique: bool = True  # whether an owner can use each name only once
    lockable: bool = True


class SharedMethods:
    """These methods for one kind of object."""

    def __init__(self, catalogue: Catalogue, shelf: Shelf, now: Callable[[], float]) -> None:
        self._catalogue = catalogue
        self._shelf = shelf
        self._now = now

    def rename(self, asking: Asking, number: int, name: str) -> int:
        """Rename an object."""
        thing = self._shelf.find(number, asking.call)
        if thing.name == name:
            return number
        self._need(asking, thing, Right.MANAGE)
        taken = self._owned_as(name, thing.access.uid)
        if taken is not None:
            label = self._shelf.kind.label
            raise CloudError(
                500, f"[{asking.call}] {label} cannot be renamed to {name} because it collides with {label} {taken}"
            )
        if reason := not_a_name(name):
            raise CloudError(500, f"[{asking.call}] {reason}")
        thing.name = name
        self._shelf.keep(thing)
        return number

    def chmod(self, asking: Asking, number: int, *bits: int) -> int:
        """Change permissions: nine bits, of which -1 leaves one as it is."""
        thing = self._shelf.find(number, asking.call)
        before = [int(bit) for bit in permission_bits(thing.access.octet).values()]
        wanted = [old if new == -1 else new for old, new in zip(before, bits[:9], strict=True)]
        changed = [old != new for old, new in zip(before, wanted, strict=True)]
        administers = any(changed[index] for index in (2, 5, 8))
        self._need(asking, thing, Right.ADMIN if administers else Right.MANAGE)
        if any(bit not in (0, 1) for bit in wanted):
            raise CoreError(f"[{asking.call}] New permission values must be -1, 0 or 1")
        octet = "".join(
            str(4 * use + 2 * manage + admin) for use, manage, admin in zip(*[iter(wanted)] * 3, strict=True)
        )
        thing.access = replace(thing.access, octet=octet)
        self._shelf.keep(thing)
        return number

    def chown(self, asking: Asking, number: int, uid: int, gid: int) -> int:
        """Give an object to another user or group; -1 leaves one as it is."""
        accounts, wants = self._catalogue.accounts, []
        changes: dict[str, Any] = {}
        if uid > -1:
            changes |= {"uid": uid, "uname": accounts.user(uid, asking.call).name}
        if gid > -1:
            changes |= {"gid": gid, "gname": accounts.group(gid, asking.call).name}
        thing = self._shelf.find(number, asking.call)
        if uid not in (-1, thing.access.uid):
            wants.append(Want(Right.MANAGE, Kind.USER, uid, account_access(uid, accounts.users[uid].gid)))
        if gid not in (-1, thing.access.gid):
            wants.append(Want(Right.USE, Kind.GROUP, gid, group_access(gid)))
        self._need(asking, thing, Right.MANAGE, *wants)
        if uid not in (-1, thing.access.uid):
            taken = self._owned_as(thing.name, uid)
            if taken is not None:
                about = f"user [{uid}] already owns {self._shelf.kind.label} [{taken}] with NAME {thing.name}"
                raise CoreError(f"[{asking.call}] {about}")
        thing.access = replace(thing.access, **changes)
        self._shelf.keep(thing)
        return number

    def lock(self, asking: Asking, number: int, level: int, test: bool = False) -> int:  # noqa: FBT001, FBT002
        """Lock an object against use, management or administration; with `test`, only if it is not locked."""
        thing = self._shelf.find(number, asking.call)
        self._need(asking, thing, Right.MANAGE, past_lock=True)
        if level not in _LOCKS:
            raise CloudError(500, f"[{asking.call}] Wrong lock level specified")
        before = thing.access.lock
        if before is not None and (test or (before.owner != asking.user.id and not asking.user.admin)):
            raise CloudError(500, f"[{asking.call}] Error trying to lock the resource.")
        lock = Lock(int(_LOCKS[level]), asking.user.id, int(self._now()))
        thing.access = replace(thing.access, lock=lock)
        self._shelf.keep(thing)
        return number

    def unlock(self, asking: Asking, number: int) -> int:
        """Remove a lock. Users can remove their own, administrators any."""
        thing = self._shelf.find(number, asking.call)
        self._need(asking, thing, Right.MANAGE, past_lock=True)
        owner = thing.access.lock.owner if thing.access.lock else -1
        if owner != asking.user.id and not asking.user.admin:
            raise CloudError(500, f"[{asking.call}] Cannot unlock: Lock is owned by another user")
        thing.access = replace(thing.access, lock=None)
        self._shelf.keep(thing)
        return number

    def _need(self, asking: Asking, thing: Owned, right: Right, *more: Want, past_lock: bool = False) -> None:
        want = Want(right, self._shelf.kind, thing.id, thing.access, past_lock)
        self._catalogue.rights.need(asking, want, *more)

    def _owned_as(self, name: str, owner: int) -> int | None:
        if not self._shelf.unique:
            return None
        return next((it.id for it in self._shelf.every() if it.name == name and it.access.uid == owner), None)

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        methods: dict[str, Method] = {"rename": self.rename, "chmod": self.chmod, "chown": self.chown}
        if self._shelf.lockable:
            methods |= {"lock": self.lock, "unlock": self.unlock}
        return {f"{self._shelf.prefix}.{name}": method for name, method in methods.items()}


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


def not_a_name(name: str) -> str:
    """Return why the core refuses this as a name, or nothing."""
    if not name:
        return "Invalid NAME, it cannot be empty"
    if found := _NOT_IN_A_NAME.search(name):
        return f"Invalid NAME, char '{found[0]}' is not allowed"
    return "Invalid NAME, max length is 128 chars" if len(name.encode()) > _LONGEST_NAME else ""


def account_access(uid: int, gid: int) -> Access:
    """Return who may do what with a user: users manage their own accounts."""
    return Access(uid, gid, octet="600")


def group_access(gid: int) -> Access:
    """Return who may do what with a group: its members use it."""
    return Access(-1, gid, octet="040")
