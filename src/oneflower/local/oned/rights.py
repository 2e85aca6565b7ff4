"""Who may do what with what: permissions, locks and ACL rules. Sources: AuthManager.cc, AclManager.cc, PoolSQL.cc."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oneflower.local.oned.accounts import User
    from oneflower.local.store import Store

_ONE, _GROUP, _ALL = 1 << 32, 1 << 33, 1 << 34  # how a rule names users and objects: by id, by group, or all
_NUMBER = (1 << 32) - 1
_USERS = 1  # the group that a new OpenNebula has rules for
WHOSE_PRIMARY_GROUP, WHOSE_MINE, WHOSE_ALL = -4, -3, -2


class Right(IntEnum):
    """A right, with its number in rules and locks."""

    USE = 1
    MANAGE = 2
    ADMIN = 4
    CREATE = 8


class Kind(Enum):
    """A kind of object: its name in refusals, its name elsewhere, and its bit in ACL rules."""

    VM = ("VM", "virtual machine", 0)
    HOST = ("HOST", "host", 1)
    NET = ("NET", "virtual network", 2)
    IMAGE = ("IMAGE", "image", 3)
    USER = ("USER", "user", 4)
    TEMPLATE = ("TEMPLATE", "virtual machine template", 5)
    GROUP = ("GROUP", "group", 6)
    ACL = ("ACL", "ACL", 7)
    DATASTORE = ("DATASTORE", "datastore", 8)
    CLUSTER = ("CLUSTER", "cluster", 9)
    DOCUMENT = ("DOCUMENT", "document", 10)
    ZONE = ("ZONE", "zone", 11)
    SECGROUP = ("SECGROUP", "security group", 12)
    MARKETPLACE = ("MARKETPLACE", "marketplace", 15)
    MARKETPLACEAPP = ("MARKETPLACEAPP", "marketplaceapp", 16)
    VMGROUP = ("VMGROUP", "vm group", 17)
    BACKUPJOB = ("BACKUPJOB", "backup job", 20)

    def __init__(self, word: str, label: str, place: int) -> None:
        self.word = word
        self.label = label
        self.bit = 1 << (36 + place)


@dataclass(frozen=True)
class Asking:
    """The caller and the name of the call; refusals begin with that name."""

    user: User
    call: str


@dataclass(frozen=True)
class Want:
    """A right that a call needs on an object. With `past_lock`, a lock on the object does not matter."""

    right: Right
    kind: Kind
    number: int
    access: Access
    past_lock: bool = False


@dataclass(frozen=True)
class Rule:
    """An ACL rule, as the numbers that clients send and read."""

    user: int
    resource: int
    rights: int
    zone: int

    def applies(self, user: User, kind: Kind) -> bool:
        """Whether the rule is about this user and this kind of object."""
        number = self.user & _NUMBER
        mine = (
            self.user & _ALL
            or (self.user & _ONE and number == user.id)
            or (self.user & _GROUP and number in user.groups)
        )
        return bool(mine and self.resource & kind.bit)

    def covers(self, number: int, gid: int) -> bool:
        """Whether the rule is about this object."""
        named = self.resource & _NUMBER
        return bool(
            self.resource & _ALL
            or (self.resource & _ONE and named == number)
            or (self.resource & _GROUP and named == gid)
        )

    def text(self) -> str:
        """Return the rule in readable form."""
        kinds = "+".join(kind.word for kind in Kind if self.resource & kind.bit)
        rights = "+".join(right.name for right in Right if self.rights & right)
        return f"{_named(self.user)} {kinds}/{_named(self.resource)} {rights} {_named(self.zone)}"


def _named(part: int) -> str:
    if part & _ALL:
        return "*"
    return f"{'@' if part & _GROUP else '#'}{part & _NUMBER}"


def _rule(user: int, kinds: Iterable[Kind], rights: int, zone: int = _ALL) -> Rule:
    return Rule(user, sum(kind.bit for kind in kinds) | _ALL, rights, zone)


# The rules of a new OpenNebula, from AclManager.cc and from the default virtual data center.
_CREATED = (Kind.VM, Kind.IMAGE, Kind.TEMPLATE, Kind.DOCUMENT, Kind.SECGROUP, Kind.VMGROUP, Kind.BACKUPJOB)
_OF_THE_DATA_CENTER = (((Kind.HOST,), Right.MANAGE), ((Kind.NET, Kind.DATASTORE), Right.USE))
_DEFAULT = {
    0: _rule(_GROUP | _USERS, _CREATED, Right.CREATE),
    1: _rule(_ALL, [Kind.ZONE], Right.USE),
    2: _rule(_ALL, [Kind.MARKETPLACE, Kind.MARKETPLACEAPP], Right.USE),
} | {
    number: _rule(_GROUP | _USERS, kinds, right, _ONE)
    for number, (kinds, right) in enumerate(_OF_THE_DATA_CENTER, start=3)
}


class Rights:
    """Decides whether a call is allowed, and what a user sees of a pool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rules = _DEFAULT | {number: Rule(**record) for number, record in store.records("acl").items()}

    def add_rule(self, rule: Rule) -> int:
        """Store an ACL rule and return its id. Raises `CloudError` 500 if the rule already exists."""
        if rule in self.rules.values():
            raise CloudError(500, f"Rule {rule.text()} already exists")
        number = self._store.next_id("acl") + len(_DEFAULT)
        self._store.save_record("acl", number, asdict(rule))
        self.rules[number] = rule
        return number

    def add_group(self, number: int) -> None:
        """Let a new group use the default virtual data center, as `users` may."""
        for kinds, right in _OF_THE_DATA_CENTER:
            self.add_rule(_rule(_GROUP | number, kinds, right, _ONE))

    def forget_user(self, number: int) -> None:
        """Remove the rules about a user that is gone."""
        self._forget(lambda rule: rule.user == _ONE | number)

    def forget_group(self, number: int) -> None:
        """Remove the rules about a group that is gone, and about what belonged to it."""
        self._forget(lambda rule: rule.user == _GROUP | number or rule.resource & (_GROUP | _NUMBER) == _GROUP | number)

    def _forget(self, concerned: Callable[[Rule], bool]) -> None:
        for number in [number for number, rule in self.rules.items() if concerned(rule) and number not in _DEFAULT]:
            self.delete_rule(number)

    def delete_rule(self, number: int) -> None:
        """Remove an ACL rule that was added. Raises `CloudError`."""
        if number not in self.rules:
            raise CloudError(500, f"Rule {number} does not exist")
        if number in _DEFAULT:
            raise CloudError(501, f"The local cloud does not implement the removal of ACL rule {number}")
        self._store.delete_record("acl", number)
        del self.rules[number]

    def need(self, asking: Asking, *wants: Want) -> None:
        """Raise `CloudError` 401, in the core's words, unless everything that a call needs is allowed."""
        refused = [_refusal(asking.user, want) for want in wants if not self._allows(asking.user, want)]
        if refused:
            raise CloudError(401, f"[{asking.call}] User [{asking.user.id}] : {'; '.join(refused)}.")

    def need_create(self, asking: Asking, kind: Kind) -> None:
        """Raise `CloudError` 401 unless the user may create objects of this kind."""
        access = Access(asking.user.id, asking.user.gid)
        self.need(asking, Want(Right.CREATE, kind, -1, access))

    def _allows(self, user: User, want: Want) -> bool:
        lock = want.access.lock
        if lock is not None and not want.past_lock and lock.level <= want.right:
            return False
        if user.admin:
            return True
        # An object that does not exist yet belongs to nobody.
        if want.number >= 0 and _granted(user, want.access) & want.right:
            return True
        return any(
            rule.rights & want.right and rule.applies(user, want.kind) and rule.covers(want.number, want.access.gid)
            for rule in self.rules.values()
        )

    def sees(self, user: User, kind: Kind, number: int, access: Access, whose: int = WHOSE_ALL) -> bool:
        """Whether an object is in the part of a pool that a user asks for, and the user may use it."""
        chosen = {
            WHOSE_PRIMARY_GROUP: access.gid == user.gid,
            WHOSE_MINE: access.uid == user.id,
            WHOSE_ALL: True,
            -1: access.uid == user.id or access.gid in user.groups,
        }.get(whose, access.uid == whose)
        return chosen and (
            access.uid == user.id or self._allows(user, Want(Right.USE, kind, number, access, past_lock=True))
        )


def _granted(user: User, access: Access) -> int:
    """Return the rights that an object's permissions give a user. The digits of an octet count use, manage, admin."""
    owner, group, other = (int(digit) for digit in access.octet)
    granted = other
    if access.gid in user.groups:
        granted |= group
    if access.uid == user.id:
        granted |= owner
    return sum(right for right, bit in ((Right.USE, 4), (Right.MANAGE, 2), (Right.ADMIN, 1)) if granted & bit)


def _refusal(user: User, want: Want) -> str:
    about = f" [{want.number}]" if want.number != -1 else ""
    if user.admin:
        return f"{want.kind.word} is locked.{about}"
    return f"Not authorized to perform {want.right.name} {want.kind.word}{about}"
