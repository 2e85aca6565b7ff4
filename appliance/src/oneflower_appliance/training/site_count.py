"""How many different sites a round needs (FL_MIN_SITES).

No round begins without nodes of so many sites: the SuperLink lists none before. Here is the other half. If fewer sites
than that have answered with a result, the round changes nothing, because its model would be that of too few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.run_folder import read_choice
from oneflower_appliance.site_choice import SiteChoice
from oneflower_appliance.sites import site_of
from oneflower_appliance.training.node_ids import names_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from flwr.serverapp import Grid


class SiteCount:
    """Counts the sites of nodes that have answered, in the run of a `folder`. `form` counts if it chose nothing."""

    def __init__(self, folder: Path, form: Mapping[str, str], grid: Grid) -> None:
        self._folder = folder
        self._form = form
        self._grid = grid
        self._choice: SiteChoice | None = None
        self._names: dict[int, str] = {}

    def look(self) -> None:
        """Learn the names of the nodes that are online, if sites are counted. Raises `OneflowerError`."""
        # Not before a run's first look at its nodes, which waits until its choice is written.
        self._choice = self._choice or read_choice(self._folder) or SiteChoice.of(self._form)
        if self._choice.least:
            self._names |= names_of(self._grid)

    def lack(self, asked: Collection[int], answered: Collection[int]) -> str:
        """Return why the results of the nodes that have `answered` are of too few sites, or an empty text."""
        least = self._choice.least if self._choice else 0
        there, sites = self._sites(answered), self._sites(asked)
        if len(there) >= least:
            return ""
        missing = ", ".join(sorted(sites - there)) or "no other site was asked"
        return (
            f"its round changes nothing: results came from {len(there)} of the {least} sites that it needs "
            f"(FL_MIN_SITES): {', '.join(sorted(there)) or 'none'}. Not from: {missing}"
        )

    def _sites(self, nodes: Collection[int]) -> set[str]:
        return {site for node in nodes if (site := site_of(self._names.get(node, "")))}
