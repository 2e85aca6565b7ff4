"""The sites of a federation: what its SuperLink knows of them, in one file of its state folder.

The SuperLink's process is the only one that writes it. Its agent and the client read it, through what is declared here.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oneflower_appliance.attributes import NOTHING
from oneflower_appliance.checks import known_topics
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.invitation import is_site_name
from oneflower_appliance.joining import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE = "sites.json"
_PACKED = re.compile(r"([a-z0-9-]{1,32})/(\d{1,4}):(\d{1,20}):(asked|approved|suspended)(?::([A-Za-z+]{1,200}))?")


def site_of(name: str) -> str:
    """Return the site of a node that is called SITE/NUMBER; empty for any other name."""
    site, _, number = name.partition("/")
    return site if is_site_name(site) and number.isascii() and number.isdecimal() else ""


@dataclass(frozen=True)
class SiteNode:
    """A node of a site. `key` is its public key (PEM), and `fingerprint` what people compare.

    `node` is Flower's id, empty until it was approved. `asked` is when it asked first, and `address` from where.
    `troubles` are the topics of what it found not in order when it booted.
    """

    number: int
    key: str
    fingerprint: str
    standing: Standing
    node: str = ""
    asked: str = ""
    address: str = ""
    troubles: tuple[str, ...] = ()

    @property
    def published(self) -> str:
        """The key as a request holds it."""
        return base64.b64encode(self.key.encode()).decode()

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> SiteNode:
        """Read what `asdict` wrote. Raises `KeyError` or `ValueError`."""
        texts = {name: str(said[name]) for name in ("key", "fingerprint", "node", "asked", "address")}
        troubles = known_topics(said.get("troubles", ()))
        return cls(number=int(said["number"]), standing=Standing(said["standing"]), troubles=troubles, **texts)


@dataclass(frozen=True)
class Site:
    """A site, and the invitation that its machines ask with.

    `index` counts the sites, from 1. `verifier` is the public key of the invitation, empty once it was revoked.
    `expires` is in seconds of the epoch. With `approves`, its first `places` keys are approved without a question.
    `removed` are the fingerprints of keys that may not come back.
    """

    name: str
    index: int
    places: int
    invitation: str
    verifier: str
    expires: float
    approves: bool = False
    suspended: bool = False
    nodes: tuple[SiteNode, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Site:
        """Read what `asdict` wrote. Raises `KeyError`, `TypeError` or `ValueError`."""
        nodes = tuple(SiteNode.parse(node) for node in said["nodes"])
        removed = tuple(str(fingerprint) for fingerprint in said["removed"])
        return cls(**{**said, "nodes": nodes, "removed": removed})

    def name_of(self, node: SiteNode) -> str:
        """Return the name of a node wherever it is shown."""
        return f"{self.name}/{node.number}"

    @property
    def admitted(self) -> tuple[SiteNode, ...]:
        """The nodes that were approved, and those that are suspended now."""
        return tuple(node for node in self.nodes if node.standing is not Standing.ASKED)

    def with_node(self, changed: SiteNode) -> Site:
        """Return the site with one node that is new or has changed."""
        return replace(self, nodes=(*(node for node in self.nodes if node.key != changed.key), changed))

    def without(self, gone: Iterable[SiteNode]) -> Site:
        """Return the site without these nodes, whose keys may not come back."""
        keys = {node.key: node.fingerprint for node in gone}
        left = tuple(node for node in self.nodes if node.key not in keys)
        return replace(self, nodes=left, removed=(*self.removed, *keys.values()))


@dataclass(frozen=True)
class Sites:
    """All sites by name."""

    of: Mapping[str, Site] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Sites:
        """Return those in a SuperLink's state folder. Raises `OneflowerError` if the file cannot be read."""
        path = folder / FILE
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return cls({site.name: site for site in map(Site.parse, said["sites"])})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OneflowerError(
                f"The list of sites cannot be read, so it is not known whom to admit: {path}: {error}.",
                "Restore the file from a copy; or delete it, and invite the sites again.",
                ExitCode.ENVIRONMENT,
            ) from error

    def save(self, folder: Path) -> None:
        """Write them, for this user only. Raises `OneflowerError`."""
        write_atomic(folder / FILE, json.dumps({"sites": [asdict(site) for site in self.of.values()]}, indent=1))

    def nodes(self) -> Iterator[tuple[Site, SiteNode]]:
        """Yield every node with its site."""
        for site in self.of.values():
            for node in site.nodes:
                yield site, node

    def __str__(self) -> str:
        return (
            " ".join(
                ":".join(
                    [site.name_of(node), node.node or "0", node.standing, *filter(None, ["+".join(node.troubles)])]
                )
                for site, node in self.nodes()
            )
            or NOTHING
        )


@dataclass(frozen=True)
class Place:
    """A node of a site as its SuperLink publishes it in FL_SITES: `SITE/NUMBER:NODE-ID:STANDING[:TOPIC+TOPIC]`, or `-`.

    `troubles` are the topics of what it found not in order when it booted.
    """

    name: str
    node: str
    standing: Standing
    troubles: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """That the node found something not in order, if it did; what exactly only its site knows."""
        if not self.troubles:
            return ""
        found, site = ", ".join(self.troubles), self.name.partition("/")[0]
        return f"{self.name} found this not in order at its site: {found}. There: `oneflower doctor --site {site}`."

    @property
    def number(self) -> str:
        """The node's number in its site."""
        return self.name.partition("/")[2]

    @classmethod
    def recall(cls, text: str) -> tuple[Place, ...]:
        """Read what `str` of the sites wrote; what cannot be read is left out."""
        found = (match for part in text.split(" ") if (match := _PACKED.fullmatch(part)))
        return tuple(
            cls(f"{m[1]}/{m[2]}", "" if m[3] == "0" else m[3], Standing(m[4]), known_topics((m[5] or "").split("+")))
            for m in found
        )
