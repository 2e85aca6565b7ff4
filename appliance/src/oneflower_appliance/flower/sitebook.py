"""Which nodes of other sites may take part: the one place that decides it, and the only one that writes it down.

It is in the SuperLink's own process, so what an operator says holds for the next request. A crash in the middle of a
change admits nobody: a key that is registered and not approved is not served, and `settle` corrects the rest.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.invitation import MOST_NODES, SITE_NAMES, is_site_name
from oneflower_appliance.joining import JoinAnswer, JoinRequest, Reason, Standing
from oneflower_appliance.log_lines import moment
from oneflower_appliance.sites import Site, SiteNode, Sites

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from oneflower_appliance.public_key import PublicKey

_MOST_SITES = 1000
_LONGEST = 366 * 86400.0  # seconds that an invitation may be valid


class Registry(Protocol):
    """What is asked of Flower's state."""

    def register(self, public_key: bytes, name: str = "") -> int:
        """Register a key. Raises `OneflowerError`, with CONFLICT when it was unregistered before."""

    def unregister(self, node: int) -> None:
        """Remove a node."""

    def deactivate(self, node: int) -> None:
        """Let a node count as offline from now on, so that what it owes fails at once."""

    def knows(self, public_key: bytes) -> bool:
        """Whether a key is registered."""

    def is_online(self, node: int) -> bool:
        """Whether a node is online."""

    def last_heard(self, node: int) -> str:
        """Return since when a node is offline, as RFC 3339; empty if it is online, or never was."""


@dataclass(frozen=True)
class Wish:
    """An invitation to be known: for whom, for how many nodes, for how many seconds, and its public key."""

    site: str
    nodes: int
    seconds: float
    invitation: str
    verifier: str
    approves: bool = False


@dataclass
class SiteBook:
    """The sites of one SuperLink. What must survive is in `folder`. `clock` tells seconds of the epoch."""

    folder: Path
    registry: Registry
    clock: Callable[[], float] = time.time
    barred: frozenset[str] = frozenset()  # the keys (hex of their PEM) that may be registered, and not be served
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self._sites = Sites.load(self.folder)
        self._bar()

    @property
    def sites(self) -> Sites:
        """All of them."""
        return self._sites

    def settle(self) -> None:
        """Make Flower's state agree with what was written down before this process started."""
        with self._lock:
            for site, node in list(self._sites.nodes()):
                if node.standing is Standing.ASKED:
                    continue
                try:
                    self._admit(site.name, node, node.standing)
                except OneflowerError:  # it was being removed
                    self._put(self._sites.of[site.name].without([node]))

    # -- what a machine of a site asks -------------------------------------------------------------------------------

    def join(self, request: JoinRequest, address: str) -> tuple[JoinAnswer, str]:
        """Answer a request. With the answer goes the fingerprint of its key if that was not known before."""
        with self._lock:
            known = self._holder(request.key)
            site = known[0] if known else self._invited(request)
            if site is None:
                return JoinAnswer.refused(Reason.UNKNOWN), ""
            key = request.owner()
            if key is None:
                return JoinAnswer.refused(Reason.INVALID), ""
            if found := self._holder(key.published):
                self._note(*found, request.troubles)
                return _answer(*found), ""
            return self._ask(site, key, address)

    def _note(self, site: Site, node: SiteNode, troubles: tuple[str, ...]) -> None:
        if troubles != node.troubles:
            self._put(site.with_node(replace(node, troubles=troubles)))

    def _holder(self, published: str) -> tuple[Site, SiteNode] | None:
        """Return the node with a key: it may have joined by an earlier invitation of its site."""
        return next((pair for pair in self._sites.nodes() if pair[1].published == published), None)

    def _invited(self, request: JoinRequest) -> Site | None:
        sites = (site for site in self._sites.of.values() if site.verifier and site.invitation == request.invitation)
        return next((site for site in sites if request.is_invited(site.verifier)), None)

    def _ask(self, site: Site, key: PublicKey, address: str) -> tuple[JoinAnswer, str]:
        if reason := self._reason(site, key):
            return JoinAnswer.refused(reason), ""
        if site.suspended:
            return JoinAnswer(Standing.SUSPENDED), ""
        number, is_free = self._number(site)
        if number is None:
            return JoinAnswer.refused(Reason.USED), ""
        node = SiteNode(number, key.pem, key.long_fingerprint, Standing.ASKED, "", moment(), address)
        self._put(site.with_node(node))
        if site.approves and is_free and self.clock() < site.expires:
            try:
                node = self._admit(site.name, node)
            except OneflowerError:  # Flower takes no key twice
                self._put(site.without([node]))
                return JoinAnswer.refused(Reason.REMOVED), ""
        return _answer(self._sites.of[site.name], node), key.long_fingerprint

    def _reason(self, site: Site, key: PublicKey) -> Reason | None:
        if key.long_fingerprint in site.removed:
            return Reason.REMOVED
        if any(node.key == key.pem for _, node in self._sites.nodes()) or self.registry.knows(key.pem.encode()):
            return Reason.TAKEN
        return Reason.EXPIRED if self.clock() >= site.expires and not site.admitted else None

    def _number(self, site: Site) -> tuple[int | None, bool]:
        """Return the place for a key that is new, and whether it is free: if not, its node is offline."""
        taken = {node.number for node in site.nodes}
        asking = {node.number for node in site.nodes if node.standing is Standing.ASKED}
        free = next((number for number in range(site.places) if number not in taken), None)
        if free is not None:
            return free, True
        away = (n.number for n in sorted(site.admitted, key=_number_of) if not self.registry.is_online(int(n.node)))
        return next((number for number in away if number not in asking), None), False

    # -- what the operator says --------------------------------------------------------------------------------------

    def invite(self, wish: Wish) -> Site:
        """Remember an invitation. Raises `OneflowerError`."""
        with self._lock:
            before = self._sites.of.get(wish.site)
            self._check(wish, before)
            index = before.index if before else max((site.index for site in self._sites.of.values()), default=0) + 1
            expires = self.clock() + wish.seconds
            site = Site(wish.site, index, wish.nodes, wish.invitation, wish.verifier, expires, wish.approves)
            if before:
                site = replace(site, nodes=before.nodes, removed=before.removed, suspended=before.suspended)
            self._put(site)
            return site

    def _check(self, wish: Wish, before: Site | None) -> None:
        if not is_site_name(wish.site):
            raise OneflowerError(f"{wish.site[:40]!r} cannot be the name of a site.", f"Use {SITE_NAMES}.")
        if not 1 <= wish.nodes <= MOST_NODES:
            raise OneflowerError(f"An invitation is for 1 to {MOST_NODES} nodes, not {wish.nodes}.", "")
        if not 0 < wish.seconds <= _LONGEST:
            raise OneflowerError("An invitation is valid for at most 366 days.", "Use --expires 7d, for example.")
        if before is None and len(self._sites.of) >= _MOST_SITES:
            raise OneflowerError(f"A federation has at most {_MOST_SITES} sites.", "", ExitCode.CONFLICT)
        if before and before.verifier and (before.nodes or self.clock() < before.expires):
            raise OneflowerError(
                f"The site {wish.site} has an invitation.",
                f"Revoke it first: `oneflower uninvite FEDERATION {wish.site}`. Its approved nodes stay.",
                ExitCode.CONFLICT,
            )
        if before and wish.nodes < len(before.admitted):
            raise OneflowerError(
                f"{wish.site} has {len(before.admitted)} nodes, and the invitation would be for {wish.nodes}.",
                "Remove nodes first, or invite for more.",
                ExitCode.CONFLICT,
            )

    def uninvite(self, name: str) -> Site:
        """Revoke an invitation. Keys that wait are dropped, and approved nodes stay. Raises `OneflowerError`."""
        with self._lock:
            site = self._site(name)
            changed = replace(site, verifier="", nodes=site.admitted)
            self._put(changed) if changed.nodes else self._drop(name)
            return changed

    def approve(self, name: str, number: int | None = None, keys: Collection[str] = ()) -> list[SiteNode]:
        """Let nodes of a site in, or back in: all, one of them, or those with these fingerprints.

        Who asks for the place of another machine gets it by its fingerprint only. Returns those that changed. Raises
        `OneflowerError`.
        """
        with self._lock:
            site = self._site(name)
            chosen = [node for node in self._chosen(site, number, keys) if node.standing is not Standing.APPROVED]
            if not keys and (others := _replacing(site, chosen)):
                chosen = [node for node in chosen if node not in others]
                if not chosen:
                    raise _needs_key(site, others[0])
            if site.suspended and number is None:
                self._put(replace(site, suspended=False))
            return [self._approve(name, node) for node in sorted(chosen, key=_number_of)]

    def _approve(self, name: str, node: SiteNode) -> SiteNode:
        site = self._sites.of[name]
        before = next((n for n in site.nodes if n.number == node.number and n.key != node.key), None)
        if before is not None and node.standing is Standing.ASKED:
            if self.registry.is_online(int(before.node)):
                raise OneflowerError(
                    f"{site.name_of(node)} is online with another key.",
                    f"If the new machine replaces it: `oneflower remove FEDERATION {site.name_of(node)} --key "
                    f"{before.fingerprint}`, then approve again.",
                    ExitCode.CONFLICT,
                )
            self._expel(name, [before])
        return self._admit(name, node)

    def suspend(self, name: str, number: int | None = None) -> list[SiteNode]:
        """Let the nodes of a site, or one of them, take no part until they are approved again."""
        with self._lock:
            site = self._site(name)
            chosen = [node for node in self._chosen(site, number, ()) if node.standing is Standing.APPROVED]
            for node in chosen:
                site = site.with_node(replace(node, standing=Standing.SUSPENDED))
            self._put(replace(site, suspended=True) if number is None else site)
            for node in chosen:
                self.registry.deactivate(int(node.node))
            return chosen

    def remove(self, name: str, number: int | None = None, keys: Collection[str] = ()) -> list[SiteNode]:
        """Remove nodes of a site for good, or refuse keys that wait. Without a choice, the site and its invitation."""
        with self._lock:
            site = self._site(name)
            chosen = self._chosen(site, number, keys)
            self._expel(name, chosen)
            if number is None and not keys:
                self._drop(name)
            return chosen

    def _expel(self, name: str, nodes: Sequence[SiteNode]) -> None:
        for node in nodes:
            if node.node:
                self.registry.deactivate(int(node.node))
                self.registry.unregister(int(node.node))
        self._put(self._sites.of[name].without(nodes))

    def _chosen(self, site: Site, number: int | None, keys: Collection[str]) -> list[SiteNode]:
        found = [node for node in site.nodes if number in (None, node.number)]
        if keys:
            found = [node for node in found if node.fingerprint in keys]
        missing = set(keys) - {node.fingerprint for node in found}
        if missing or (number is not None and not found):
            what = f"node with the key {', '.join(sorted(missing))}" if missing else f"node {site.name}/{number}"
            raise OneflowerError(
                f"The site {site.name} has no {what}.", "`oneflower sites` shows those it has.", ExitCode.NOT_FOUND
            )
        return found

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _site(self, name: str) -> Site:
        if site := self._sites.of.get(name):
            return site
        raise OneflowerError(
            f"There is no site {name[:40]!r}.", "`oneflower sites` shows those there are.", ExitCode.NOT_FOUND
        )

    def _admit(self, name: str, node: SiteNode, standing: Standing = Standing.APPROVED) -> SiteNode:
        """Register a node, and write its id down. Raises `OneflowerError` if Flower refuses its key."""
        site = self._sites.of[name]
        number = self.registry.register(node.key.encode(), site.name_of(node))
        admitted = replace(node, standing=standing, node=str(number))
        if admitted not in site.nodes:
            self._put(site.with_node(admitted))
        return admitted

    def _put(self, site: Site) -> None:
        self._keep(Sites({**self._sites.of, site.name: site}))

    def _drop(self, name: str) -> None:
        self._keep(Sites({known: site for known, site in self._sites.of.items() if known != name}))

    def _keep(self, sites: Sites) -> None:
        sites.save(self.folder)
        self._sites = sites
        self._bar()

    def _bar(self) -> None:
        kept = (node for _, node in self._sites.nodes() if node.standing is not Standing.APPROVED)
        self.barred = frozenset(node.key.encode().hex() for node in kept)


def _answer(site: Site, node: SiteNode) -> JoinAnswer:
    return JoinAnswer(node.standing, None, site.name_of(node), node.number, site.places, site.index)


def _replacing(site: Site, nodes: Sequence[SiteNode]) -> list[SiteNode]:
    """Return those that ask for the place of another machine."""
    taken = {node.number for node in site.admitted}
    return [node for node in nodes if node.standing is Standing.ASKED and node.number in taken]


def _needs_key(site: Site, node: SiteNode) -> OneflowerError:
    return OneflowerError(
        f"A machine asks to be {site.name_of(node)} in the place of another one.",
        f"If that one was replaced, name the new one's key: `oneflower approve FEDERATION --key {node.fingerprint}`.",
        ExitCode.CONFLICT,
    )


def _number_of(node: SiteNode) -> int:
    return node.number
