"""Users, groups and ACL rules as the core's XML. There are no quotas, so all of them are empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.oned.accounts import SERVERADMIN
from oneflower.local.oned.corexml import by_name, element, text

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Iterable, Sequence

    from oneflower.local.oned.accounts import Group, User
    from oneflower.local.oned.rights import Rule

_QUOTAS: dict[str, Any] = {"DATASTORE_QUOTA": {}, "NETWORK_QUOTA": {}, "VM_QUOTA": {}, "IMAGE_QUOTA": {}}


def user_xml(user: User, gname: str) -> ET.Element:
    """Return a user as one.user.info does."""
    return element("USER", _user(user, gname) | _QUOTAS | {"DEFAULT_USER_QUOTAS": _QUOTAS})


def user_pool_xml(users: Iterable[tuple[User, str]]) -> str:
    """Return users, each with the name of the primary group, as one.userpool.info does: their quotas beside them."""
    return _pool("USER", [_user(user, gname) for user, gname in users])


def _user(user: User, gname: str) -> dict[str, Any]:
    tokens = [{"TOKEN": token, "EXPIRATION_TIME": until, "EGID": -1} for token, until in user.tokens.items()]
    return {
        "ID": user.id,
        "GID": user.gid,
        "GROUPS": {"ID": list(user.groups)},
        "GNAME": gname,
        "NAME": user.name,
        "PASSWORD": user.digest,
        "AUTH_DRIVER": "server_cipher" if user.id == SERVERADMIN else "core",
        "ENABLED": int(user.enabled),
        **({"LOGIN_TOKEN": tokens} if tokens else {}),
        "TEMPLATE": by_name(user.template),
    }


def group_xml(group: Group, members: Sequence[int]) -> ET.Element:
    """Return a group as one.group.info does."""
    rules = {"VLAN_RULES": {"ID": group.id}, "DEFAULT_GROUP_QUOTAS": _QUOTAS}
    return element("GROUP", _group(group, members) | _QUOTAS | rules)


def group_pool_xml(groups: Iterable[tuple[Group, Sequence[int]]]) -> str:
    """Return groups, each with the ids of its members, as one.grouppool.info does: their quotas beside them."""
    return _pool("GROUP", [_group(group, members) for group, members in groups])


def _group(group: Group, members: Sequence[int]) -> dict[str, Any]:
    return {
        "ID": group.id,
        "NAME": group.name,
        "TEMPLATE": by_name(group.template),
        "USERS": {"ID": list(members)} if members else {},
        "ADMINS": {},
    }


def _pool(name: str, accounts: Sequence[dict[str, Any]]) -> str:
    quotas = [{"ID": account["ID"], **_QUOTAS} for account in accounts]
    content = {name: list(accounts), "QUOTAS": quotas, f"DEFAULT_{name}_QUOTAS": _QUOTAS}
    return text(element(f"{name}_POOL", content))


def rule_xml(number: int, rule: Rule) -> ET.Element:
    """Return an ACL rule as one.acl.info does."""
    content = {
        "ID": number,
        "USER": f"{rule.user:x}",
        "RESOURCE": f"{rule.resource:x}",
        "RIGHTS": f"{rule.rights:x}",
        "ZONE": f"{rule.zone:x}",
        "STRING": rule.text(),
    }
    return element("ACL", content)
