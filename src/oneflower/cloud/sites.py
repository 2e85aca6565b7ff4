"""Other sites of a federation: who may ask to join, who asks, and who takes part. Their machines are in other services.

An invitation is made here. Its secret is in the text that the operator gets, and nowhere else: the SuperLink is told
the public key only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.cloud import superlink
from oneflower.cloud.audit import audited
from oneflower.cloud.rotation import ca_fingerprint
from oneflower_appliance.checks import known_topics
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import split_address
from oneflower_appliance.invitation import Invitation, is_site_name
from oneflower_appliance.joining import Standing
from oneflower_appliance.sites import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus


_BETWEEN = 0.3  # seconds between two looks at who is online


@dataclass(frozen=True)
class SiteNode:
    """A node of a site, called SITE/NUMBER. `fingerprint` is that of its key; `asked` when it asked, from `address`.

    `troubles` are the topics of what it found not in order when it booted.
    `heard` is since when it is offline, as RFC 3339, and empty if it is online or never was.
    """

    name: str
    standing: str
    online: bool
    fingerprint: str
    node: str
    asked: str
    address: str
    heard: str = ""
    troubles: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """That the node found something not in order, if it did."""
        return Place(self.name, self.node, Standing(self.standing), self.troubles).warning


@dataclass(frozen=True)
class SiteStatus:
    """A site. `open` says whether its invitation is known, and `expires` until when it can be used first.

    `expires` is in seconds of the epoch. `places` is how many nodes it may have.
    """

    name: str
    places: int
    open: bool
    expires: float
    approves: bool
    suspended: bool
    nodes: tuple[SiteNode, ...]
    removed: int = 0  # keys that may not come back

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> SiteStatus:
        """Read what a SuperLink says of a site. Raises `KeyError`, `TypeError` or `ValueError`."""
        name = str(said["name"])
        nodes = tuple(_node(name, node) for node in sorted(said["nodes"], key=lambda node: int(node["number"])))
        flags = {flag: bool(said[flag]) for flag in ("open", "approves", "suspended")}
        return cls(
            name,
            int(said["places"]),
            expires=float(said["expires"]),
            nodes=nodes,
            **flags,
            removed=len(said.get("removed", ())),
        )

    @property
    def standing(self) -> str:
        """How the site stands: as its nodes do, or invited if there are none."""
        if self.suspended:
            return Standing.SUSPENDED
        found = {node.standing for node in self.nodes}
        order = (Standing.ASKED, Standing.APPROVED, Standing.SUSPENDED)
        return next((standing for standing in order if standing in found), "invited" if self.open else "not invited")

    @property
    def online(self) -> int:
        """How many of its nodes are online."""
        return sum(node.online for node in self.nodes)

    @property
    def newcomers(self) -> list[str]:
        """The fingerprints of those that wait for a place that is free."""
        taken = {node.name for node in self.nodes if node.standing != Standing.ASKED}
        return [node.fingerprint for node in self.asking if node.name not in taken]

    @property
    def asking(self) -> tuple[SiteNode, ...]:
        """The nodes that wait for an answer."""
        return tuple(node for node in self.nodes if node.standing == Standing.ASKED)


def _node(site: str, said: Mapping[str, Any]) -> SiteNode:
    texts = {name: str(said[name]) for name in ("standing", "fingerprint", "node", "asked", "address")}
    name, heard, troubles = f"{site}/{int(said['number'])}", str(said.get("heard", "")), said.get("troubles", ())
    return SiteNode(name=name, online=bool(said["online"]), heard=heard, troubles=known_topics(troubles), **texts)


@dataclass(frozen=True)
class Target:
    """What a command is about: a site (`north`), or one of its nodes (`north/2`)."""

    site: str
    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read it. Raises `OneflowerError`."""
        site, slash, number = text.partition("/")
        if not is_site_name(site) or (slash and not (number.isascii() and number.isdigit() and len(number) <= 4)):
            raise OneflowerError(
                f"{text[:60]!r} is neither a site nor one of its nodes.",
                "Name a site, such as north, or a node, such as north/2: `oneflower sites` shows them.",
                ExitCode.USAGE,
            )
        return cls(site, int(number) if slash else None)

    def __str__(self) -> str:
        return self.site if self.number is None else f"{self.site}/{self.number}"


class Sites:
    """The other sites of one federation. Its methods raise `OneflowerError`."""

    def __init__(self, cloud: Cloud, service: Service) -> None:
        self._cloud = cloud
        self._service = service

    def invite(
        self, site: str, nodes: int, seconds: float, *, approves: bool = False, endpoint: str = ""
    ) -> Invitation:
        """Return a new invitation for `nodes` SuperNodes of a site, which can be used first within `seconds`.

        With `approves`, they take part without a further question. `endpoint` is host:port where the site reaches the
        SuperLink, if that is not what it published.
        """
        status = self._service.status()
        invitation = Invitation.make(site, nodes, _endpoint(status, endpoint), ca_fingerprint(status))
        said = {"nodes": nodes, "seconds": seconds, "id": invitation.id, "verifier": invitation.verifier}
        with self._audited("site.invite", site, nodes=str(nodes), approves="YES" if approves else ""):
            self._ask(status, site, "invite", said | {"approves": approves})
        return invitation

    def all(self) -> tuple[SiteStatus, ...]:
        """Return all sites, by name."""
        status = self._service.status()
        with superlink.reach(self._cloud.surroundings, status) as link:
            found = link.json("/sites")
        if found is None:
            raise _older()
        try:
            return tuple(sorted(map(SiteStatus.parse, found), key=lambda site: site.name))
        except (KeyError, TypeError, ValueError) as error:
            raise OneflowerError(
                f"The SuperLink's list of sites cannot be read: {error!r}.", "See `oneflower logs`.", ExitCode.CLOUD
            ) from error

    def approve(self, targets: Sequence[str] = (), keys: Sequence[str] = ()) -> list[str]:
        """Let nodes take part: those that ask, and those that were suspended. Returns the names of those that changed.

        `targets` are sites, such as north, and nodes of sites: north/2. With `keys`, only those with these
        fingerprints, of these sites or of any. With neither, all that ask now, but for those that
        would replace another machine.
        """
        changed = []
        for target, own in self._chosen([Target.parse(target) for target in targets], keys):
            changed += self._change("approve", target, own)
        return changed

    def _chosen(self, targets: Sequence[Target], keys: Sequence[str]) -> list[tuple[Target, Sequence[str]]]:
        """Return which keys of each site are meant; none of a site means all of it."""
        if not keys and targets:
            return [(target, ()) for target in targets]
        if len(targets) == 1:
            return [(targets[0], keys)]
        found = [site for site in self.all() if not targets or site.name in {target.site for target in targets}]
        if not keys:
            return [(Target(site.name), prints) for site in found if (prints := site.newcomers)]
        known = {node.fingerprint for site in found for node in site.nodes}
        if missing := sorted(set(keys) - known):
            raise OneflowerError(
                f"No node here has the key {', '.join(missing)}, so nobody was approved.",
                "`oneflower sites` shows who asks. A machine that has not asked yet can be approved when it has.",
                ExitCode.NOT_FOUND,
            )
        own = [(site, [node.fingerprint for node in site.nodes if node.fingerprint in keys]) for site in found]
        return [(Target(site.name), prints) for site, prints in own if prints]

    def wait_online(self, names: Sequence[str], seconds: float = 20) -> list[str]:
        """Wait until nodes that were approved are online, and return those that are not after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            online = {node.name for site in self.all() for node in site.nodes if node.online}
            away = [name for name in names if name not in online]
            if not away or time.monotonic() > deadline:
                return away
            time.sleep(_BETWEEN)

    def suspend(self, target: str) -> list[str]:
        """Let nodes take no part until they are approved again. Returns their names."""
        return self._change("suspend", Target.parse(target))

    def remove(self, target: str, keys: Sequence[str] = ()) -> list[str]:
        """Remove nodes for good, or refuse those that ask. A whole site goes with its invitation. Returns names."""
        return self._change("remove", Target.parse(target), keys)

    def uninvite(self, site: str) -> list[str]:
        """Revoke an invitation. Returns the names of the nodes that stay."""
        return self._change("uninvite", Target.parse(site))

    def _change(self, action: str, target: Target, keys: Sequence[str] = ()) -> list[str]:
        with self._audited(f"site.{action}", str(target), hindered=action == "approve", keys=", ".join(keys)) as said:
            asked = {"number": target.number, "keys": list(keys)}
            changed = self._ask(self._service.status(), target.site, action, asked)
            said["nodes"] = ", ".join(changed)
            return changed

    def _ask(self, status: FederationStatus, site: str, action: str, said: Mapping[str, Any]) -> list[str]:
        if not is_site_name(site):  # it becomes a part of a path
            raise OneflowerError(
                f"{site[:40]!r} cannot be the name of a site.",
                "Use small letters, digits and '-', with a letter or a digit at both ends.",
            )
        with superlink.reach(self._cloud.surroundings, status) as link:
            answer = link.change(f"/sites/{site}/{action}", said)
        if answer is None:
            raise _older()
        return [str(name) for name in answer["nodes"]]

    def _audited(
        self, action: str, site: str, *, hindered: bool = True, **more: str
    ) -> AbstractContextManager[dict[str, str]]:
        more |= {"service": str(self._service.id), "site": site}
        return audited(self._cloud, action, self._service.name, hindered=hindered, **more)


def _older() -> OneflowerError:
    return OneflowerError(
        "This SuperLink knows no other sites: its oneflower is of an older release.",
        "Deploy the federation from a current image.",
        ExitCode.CONFLICT,
    )


def _endpoint(status: FederationStatus, given: str) -> str:
    try:
        split_address(given or status.endpoint)
    except ValueError as error:
        if given:
            raise OneflowerError(f"--endpoint {given!r} is not of the form host:port.", "", ExitCode.USAGE) from error
        raise OneflowerError(
            f"{status.name} has no SuperLink that is ready.", "Look with `oneflower show`.", ExitCode.CONFLICT
        ) from error
    return given or status.endpoint
