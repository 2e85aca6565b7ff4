"""What a SuperLink measures of other sites: which of their nodes are online, and how they take part in rounds.

The labels have the names of sites and of their nodes, which the operator chose. There are never more than `_MOST` of
each: the rest is counted together.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from oneflower_appliance import metrics as m
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.runs import PHASES
from oneflower_appliance.sites import Sites, site_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from oneflower_appliance.metrics import Reading
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.node_state import NodeState

log = logging.getLogger(__name__)

_MOST = 100
_REST = "others"


def nodes_online(nodes: Iterable[NodeState]) -> Iterator[Reading]:
    """Yield whether each node of another site is online. Of those beyond the limit, there is one reading: any."""
    found = sorted((site_of(node.name), node.name, node.online) for node in nodes if site_of(node.name))
    for site, name, online in found[:_MOST]:
        yield m.SITE_ONLINE.is_(online, site, name)
    if rest := found[_MOST:]:
        yield m.SITE_ONLINE.is_(any(online for _, _, online in rest), _REST, _REST)


class SiteTasks:
    """Counts what nodes of other sites did in rounds. The file with the sites is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tasks: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[tuple[str, str]] = Counter()

    def count(self, reports: Iterable[NodeReport]) -> None:
        """Count what nodes did in rounds that are new."""
        known = self._sites()
        for report in reports:
            if report.phase in PHASES and (site := known.get(report.node)):
                (self._faults if report.fault else self._tasks)[site, report.phase] += 1

    def readings(self) -> Iterator[Reading]:
        """Return the readings."""
        sites = {*self._sites().values(), *(site for site, _ in (*self._tasks, *self._faults))}
        for site in sorted(sites):
            for phase in PHASES:
                yield m.SITE_TASKS.is_(self._tasks[site, phase], site, phase)
                yield m.SITE_FAULTS.is_(self._faults[site, phase], site, phase)

    def _sites(self) -> dict[str, str]:
        """Return the site of each node, by Flower's id."""
        try:
            sites = Sites.load(self._folder)
        except OneflowerError as error:
            log.warning("%s", error.sentence)
            return {}
        shown = {*sorted(sites.of)[:_MOST]}
        return {node.node: site.name if site.name in shown else _REST for site, node in sites.nodes() if node.node}
