"""Users and groups, and which user a session string or a password belongs to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.store import Store

ONEADMIN, SERVERADMIN = 0, 1
ADMINS, USERS = 0, 1  # groups
_MOST_TOKENS = 10  # of one user
_FIRST_USER, _FIRST_GROUP = 2, 100  # the first ids, as in a new OpenNebula
TOKEN_PASSWORD = "TOKEN_PASSWORD"  # noqa: S105 - the name of an attribute


@dataclass
class User:
    """A user: `gid` is the primary group, `groups` are all of them; `digest` is empty for a user who cannot log in."""

    id: int
    name: str
    gid: int = ADMINS
    groups: list[int] = field(default_factory=lambda: [ADMINS])
    template: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    enabled: bool = True
    tokens: dict[str, int] = field(default_factory=dict)  # each with the time until which it is one, or -1

    @property
    def admin(self) -> bool:
        """Whether the user may do everything: oneadmin and the members of its group."""
        return self.id == ONEADMIN or ADMINS in self.groups


@dataclass
class Group:
    """A group of users."""

    id: int
    name: str
    template: dict[str, Any] = field(default_factory=dict)


class Accounts:
    """All users and groups. oneadmin's password is not kept here: it is the cloud's own."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        tokens = {TOKEN_PASSWORD: store.setting("token_password", secrets.token_hex(32))}
        self.groups = {ADMINS: Group(ADMINS, "oneadmin"), USERS: Group(USERS, "users")}
        self.groups |= {number: Group(**record) for number, record in store.records("group").items()}
        self.users = {ONEADMIN: User(ONEADMIN, "oneadmin"), SERVERADMIN: User(SERVERADMIN, "serveradmin")}
        self.users |= {number: User(**record) for number, record in store.records("user").items()}
        self.users[ONEADMIN].template |= tokens

    def user(self, number: int, call: str) -> User:
        """Return a user. Raises `CloudError` 404."""
        if number not in self.users:
            raise CloudError(404, f"[{call}] Error getting user [{number}].")
        return self.users[number]

    def group(self, number: int, call: str) -> Group:
        """Return a group. Raises `CloudError` 404."""
        if number not in self.groups:
            raise CloudError(404, f"[{call}] Error getting group [{number}].")
        return self.groups[number]

    def members(self, group: int) -> list[int]:
        """Return the ids of the users in a group."""
        return [user.id for user in self.users.values() if group in user.groups]

    def add_user(self, name: str, password: str, groups: list[int]) -> User:
        """Create a user whose first group is the primary one."""
        number = self._store.next_id("user") + _FIRST_USER
        tokens = {TOKEN_PASSWORD: secrets.token_hex(32)}
        user = User(number, name, groups[0], sorted(groups), tokens, digest(password))
        self.save_user(user)
        self.users[number] = user
        return user

    def save_user(self, user: User) -> None:
        """Write a user to the store."""
        self._store.save_record("user", user.id, asdict(user))

    def add_token(self, user: User, token: str, seconds: int) -> str | None:
        """Add a login token for some seconds, or without an end (-1). None if there are too many."""
        user.tokens = {known: until for known, until in user.tokens.items() if until == -1 or self._now() < until}
        if len(user.tokens) >= _MOST_TOKENS:
            return None
        token = token or secrets.token_hex(32)
        user.tokens[token] = -1 if seconds == -1 else int(self._now()) + seconds
        self.save_user(user)
        return token

    def shows(self, user: User, secret: str) -> bool:
        """Whether a secret is the password of a user, or one of the login tokens."""
        if user.digest and hmac.compare_digest(user.digest, digest(secret)):
            return True
        shown = secret.encode(errors="replace")
        return any(
            hmac.compare_digest(token.encode(), shown)
            for token, until in user.tokens.items()
            if until == -1 or self._now() < until
        )

    def delete_user(self, number: int) -> None:
        """Remove a user."""
        self._store.delete_record("user", number)
        del self.users[number]

    def add_group(self, name: str) -> Group:
        """Create a group."""
        group = Group(self._store.next_id("group") + _FIRST_GROUP, name)
        self.save_group(group)
        self.groups[group.id] = group
        return group

    def save_group(self, group: Group) -> None:
        """Write a group to the store."""
        self._store.save_record("group", group.id, asdict(group))

    def delete_group(self, number: int) -> None:
        """Remove a group."""
        self._store.delete_record("group", number)
        del self.groups[number]


class Sessions:
    """Who may log in: oneadmin with the cloud's own session string, users with their passwords or login tokens."""

    def __init__(self, accounts: Accounts, secret: str) -> None:
        self._accounts = accounts
        self._secret = secret.encode()

    def user_of(self, session: str) -> User | None:
        """Return the user that a session string belongs to, or None."""
        if hmac.compare_digest(session.encode(errors="replace"), self._secret):
            return self._accounts.users[ONEADMIN]
        name, _, secret = session.partition(":")
        for user in self._accounts.users.values():
            if user.name == name and user.enabled and self._accounts.shows(user, secret):
                return user
        return None


def digest(password: str) -> str:
    """Return the digest of a password, as OpenNebula stores it."""
    return hashlib.sha256(password.encode(errors="replace")).hexdigest()
