"""The core's methods about users, groups and ACL rules. Sources: UserAPI.cc, GroupAPI.cc, AclAPI.cc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.accounts import ADMINS, ONEADMIN, SERVERADMIN, TOKEN_PASSWORD, USERS, digest
from oneflower.local.oned.accountxml import group_pool_xml, group_xml, rule_xml, user_pool_xml, user_xml
from oneflower.local.oned.corexml import text
from oneflower.local.oned.models import Access
from oneflower.local.oned.ownership import account_access, changed, group_access, not_a_name
from oneflower.local.oned.pools import in_window, pool
from oneflower.local.oned.rights import Asking, Kind, Right, Rule, Want

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oneflower.local.oned.accounts import Group, User
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.ownership import Method

_THIS_ZONE = "100000000"
_NOBODYS = Access(octet="000")


class UserMethods:
    """Methods about users."""

    def __init__(self, compute: Compute) -> None:
        self._catalogue = compute.catalogue
        self._accounts = compute.catalogue.accounts

    def info(self, asking: Asking, number: int = -1, *_: Any) -> str:
        """Return a user; -1 is the caller."""
        user = self._may(asking, asking.user.id if number == -1 else number, Right.USE)
        return text(user_xml(user, self._accounts.groups[user.gid].name))

    def pool(self, asking: Asking, *_: Any) -> str:
        """Return the users: all of them for an administrator, otherwise only the caller."""
        seen = [user for user in self._accounts.users.values() if asking.user.admin or user.id == asking.user.id]
        return user_pool_xml((user, self._accounts.groups[user.gid].name) for user in seen)

    def allocate(self, asking: Asking, name: str, password: str, driver: str = "", groups: Sequence[int] = ()) -> int:
        """Create a user, whose first group is the primary one, `users` if none is named."""
        self._catalogue.rights.need_create(asking, Kind.USER)
        if driver not in ("", "core"):
            raise CloudError(501, f"The local cloud does not implement the authentication driver {driver!r}")
        wanted = [number for number in groups if number >= 0] or [USERS]
        for number in wanted:
            self._accounts.group(number, asking.call)
        _check_name(asking, "USER", name, self._accounts.users.values())
        if not password:
            raise CoreError(f"[{asking.call}] Invalid password, it cannot be empty.")
        return self._accounts.add_user(name, password, wanted).id

    def delete(self, asking: Asking, number: int) -> int:
        """Remove a user."""
        user = self._may(asking, number, Right.ADMIN)
        if number in (ONEADMIN, SERVERADMIN):
            raise CloudError(500, f"[{asking.call}] {user.name} cannot be deleted.")
        self._accounts.delete_user(number)
        self._catalogue.rights.forget_user(number)
        return number

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a user's attributes. TOKEN_PASSWORD, which tokens are made with, stays."""
        user = self._may(asking, number, Right.MANAGE)
        fixed = {TOKEN_PASSWORD: user.template[TOKEN_PASSWORD]} if TOKEN_PASSWORD in user.template else {}
        user.template = changed(asking, user.template, content, append) | fixed
        self._accounts.save_user(user)
        return number

    def passwd(self, asking: Asking, number: int, password: str) -> int:
        """Change a user's password. oneadmin's is the cloud's own and cannot be changed."""
        user = self._may(asking, number, Right.MANAGE)
        if number in (ONEADMIN, SERVERADMIN):
            raise CloudError(501, f"The local cloud does not implement another password for {user.name}")
        if not password:
            raise CloudError(500, f"[{asking.call}] Invalid password, it cannot be empty")
        user.digest = digest(password)
        self._accounts.save_user(user)
        return number

    def login(self, asking: Asking, name: str, token: str, seconds: int, group: int = -1) -> str:
        """Create a login token, for some seconds or without an end (-1), or remove one or all (0)."""
        known = next((user for user in self._accounts.users.values() if user.name == name), None)
        if known is None:
            raise CloudError(404, f"[{asking.call}] Error getting user Pool.")
        user = self._may(asking, known.id, Right.MANAGE)
        if seconds == 0:
            if token and token not in user.tokens:
                raise CloudError(400, f"[{asking.call}] Could not find token: {token}")
            user.tokens = {other: until for other, until in user.tokens.items() if token and other != token}
            self._accounts.save_user(user)
            return token
        if seconds < -1:
            raise CloudError(400, f"[{asking.call}] Wrong valid period for token")
        if group != -1:
            raise CloudError(501, "The local cloud does not implement login tokens for one group")
        made = self._accounts.add_token(user, token, seconds)
        if made is None:
            raise CloudError(400, f"[{asking.call}] Max number of tokens limit reached.")
        return made

    def enable(self, asking: Asking, number: int, enabled: bool) -> int:  # noqa: FBT001
        """Allow or forbid a user to log in."""
        user = self._may(asking, number, Right.ADMIN)
        if number == ONEADMIN:
            raise CloudError(500, f"[{asking.call}] Cannot enable/disable oneadmin user")
        user.enabled = enabled
        self._accounts.save_user(user)
        return number

    def chgrp(self, asking: Asking, number: int, group: int) -> int:
        """Change a user's primary group; the user stays only in the groups that it was added to."""
        self._may(asking, number, Right.MANAGE, self._use_of_group(asking, group))
        user = self._accounts.users[number]
        if number == ONEADMIN:
            raise CoreError(f"[{asking.call}] Cannot change the primary group of oneadmin")
        groups = set(user.groups)
        if group not in groups:
            groups.discard(user.gid)
        user.gid, user.groups = group, sorted(groups | {group})
        self._accounts.save_user(user)
        return number

    def add_group(self, asking: Asking, number: int, group: int) -> int:
        """Add a user to another group."""
        user = self._edit(asking, number, group)
        if group in user.groups:
            raise CloudError(500, f"[{asking.call}] User is already in this group")
        user.groups = sorted([*user.groups, group])
        self._accounts.save_user(user)
        return number

    def delete_group(self, asking: Asking, number: int, group: int) -> int:
        """Remove a user from a group that is not its primary one."""
        user = self._edit(asking, number, group)
        if group not in user.groups:
            raise CloudError(500, f"[{asking.call}] User is not part of this group")
        if group == user.gid:
            raise CloudError(500, f"[{asking.call}] Cannot remove user from the primary group")
        user.groups = [other for other in user.groups if other != group]
        self._accounts.save_user(user)
        return number

    def _edit(self, asking: Asking, number: int, group: int) -> User:
        self._accounts.group(group, asking.call)
        return self._may(asking, number, Right.MANAGE, Want(Right.MANAGE, Kind.GROUP, group, group_access(group)))

    def _use_of_group(self, asking: Asking, group: int) -> Want:
        if group < 0:
            raise CloudError(400, f"[{asking.call}] Wrong group ID")
        return Want(Right.USE, Kind.GROUP, self._accounts.group(group, asking.call).id, group_access(group))

    def _may(self, asking: Asking, number: int, right: Right, *more: Want) -> User:
        user = self._accounts.user(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.USER, number, account_access(user.id, user.gid)), *more)
        return user

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.user.info": self.info,
            "one.user.allocate": self.allocate,
            "one.user.delete": self.delete,
            "one.user.update": self.update,
            "one.user.passwd": self.passwd,
            "one.user.login": self.login,
            "one.user.enable": self.enable,
            "one.user.chgrp": self.chgrp,
            "one.user.addgroup": self.add_group,
            "one.user.delgroup": self.delete_group,
            "one.userpool.info": self.pool,
        }


class GroupMethods:
    """Methods about groups of users."""

    def __init__(self, compute: Compute) -> None:
        self._catalogue = compute.catalogue
        self._accounts = compute.catalogue.accounts

    def info(self, asking: Asking, number: int = -1, *_: Any) -> str:
        """Return a group; -1 is the caller's primary group."""
        group = self._may(asking, asking.user.gid if number == -1 else number, Right.USE)
        return text(group_xml(group, self._accounts.members(group.id)))

    def pool(self, asking: Asking, *_: Any) -> str:
        """Return the groups: all of them for an administrator, otherwise the caller's own."""
        seen = [it for it in self._accounts.groups.values() if asking.user.admin or it.id in asking.user.groups]
        return group_pool_xml((group, self._accounts.members(group.id)) for group in seen)

    def allocate(self, asking: Asking, name: str) -> int:
        """Create a group. It may use the default virtual data center, as any new group may."""
        self._catalogue.rights.need_create(asking, Kind.GROUP)
        _check_name(asking, "GROUP", name, self._accounts.groups.values())
        group = self._accounts.add_group(name)
        self._catalogue.rights.add_group(group.id)
        return group.id

    def delete(self, asking: Asking, number: int) -> int:
        """Remove a group without members."""
        self._may(asking, number, Right.ADMIN)
        if number in (ADMINS, USERS):
            raise CloudError(500, f"[{asking.call}] System Groups (ID < 100) cannot be deleted.")
        if self._accounts.members(number):
            raise CloudError(500, f"[{asking.call}] Group {number} is not empty.")
        self._accounts.delete_group(number)
        self._catalogue.rights.forget_group(number)
        return number

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a group's attributes."""
        group = self._may(asking, number, Right.ADMIN)
        group.template = changed(asking, group.template, content, append)
        self._accounts.save_group(group)
        return number

    def _may(self, asking: Asking, number: int, right: Right) -> Group:
        group = self._accounts.group(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.GROUP, number, group_access(number)))
        return group

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.group.info": self.info,
            "one.group.allocate": self.allocate,
            "one.group.delete": self.delete,
            "one.group.update": self.update,
            "one.grouppool.info": self.pool,
        }


class AclMethods:
    """Methods about ACL rules."""

    def __init__(self, compute: Compute) -> None:
        self._rights = compute.catalogue.rights

    def add(self, asking: Asking, user: str, resource: str, rights: str, zone: str = "") -> int:
        """Store a rule; its parts are hexadecimal numbers."""
        self._need(asking)
        return self._rights.add_rule(Rule(*(int(part, 16) for part in (user, resource, rights, zone or _THIS_ZONE))))

    def delete(self, asking: Asking, number: int) -> int:
        """Remove a rule."""
        self._need(asking)
        self._rights.delete_rule(number)
        return number

    def info(self, asking: Asking) -> str:
        """Return all rules."""
        self._need(asking)
        return pool(
            "ACL_POOL", (rule_xml(number, self._rights.rules[number]) for number in in_window(self._rights.rules))
        )

    def _need(self, asking: Asking) -> None:
        self._rights.need(asking, Want(Right.MANAGE, Kind.ACL, -1, _NOBODYS))

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {"one.acl.addrule": self.add, "one.acl.delrule": self.delete, "one.acl.info": self.info}


def _check_name(asking: Asking, what: str, name: str, known: Iterable[User | Group]) -> None:
    if reason := not_a_name(name):
        raise CoreError(f"[{asking.call}] {reason}.")
    for thing in known:
        if thing.name == name:
            raise CoreError(f"[{asking.call}] NAME is already taken by {what} {thing.id}.")
