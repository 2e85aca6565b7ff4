"""Which nodes each run may see and send to: those of the sites that were chosen for it (FL_SITES, FL_MIN_SITES).

It is in the SuperLink's own process, below Flower's APIs, so it holds for every app however it was started, and for
what an app sends as well as for what it is told.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.linkstate import called
from oneflower_appliance.run_folder import read_choice, write_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from oneflower_appliance.site_choice import SiteChoice
    from oneflower_appliance.sites import Sites

log = logging.getLogger("flwr")


class ChosenNodes:
    """The choices of all runs. `form` counts for those that were started without one. `sites` returns what is known."""

    def __init__(self, form: SiteChoice, runs: Path, sites: Callable[[], Sites]) -> None:
        self.form = form
        self._runs = runs
        self._sites = sites
        self._lock = threading.RLock()
        self._of: dict[int, SiteChoice] = {}  # a run's folder has a copy, which its app could change
        self._names: tuple[Sites | None, dict[int, str]] = (None, {})

    def start(self, choice: SiteChoice, begin: Callable[[], int]) -> int:
        """Start a run with a choice: `begin` returns its number. Nobody is told anything about it before it counts."""
        with self._lock:
            number = begin()
            if number and not choice.is_open:
                self._of[number] = choice
                write_choice(self._runs / str(number), choice)
            return number

    def of(self, run: int) -> SiteChoice:
        """Return the choice of a run."""
        with self._lock:
            return self._of.get(run, self.form)

    def earlier(self, run: int) -> SiteChoice:
        """Return the choice of a run that may have been started before this process. Raises `OneflowerError`."""
        return self._of.get(run) or read_choice(self._runs / str(run)) or self.form

    def check(self, choice: SiteChoice) -> None:
        """Raise `OneflowerError` if no run can be as was chosen, with the sites that are known now."""
        if not choice.is_open and (name := places.missing(Feature.SITE_CHOICE)):
            raise OneflowerError(
                places.sentence(Feature.SITE_CHOICE, name), "Use a release that has it (FLOWER_VERSION).",
                ExitCode.CONFLICT,
            )  # fmt: skip
        if problem := choice.problem(self._sites().of):
            raise OneflowerError(
                f"{problem} No run was started.", "`oneflower sites` shows them; `-` stands for the federation's own "
                "nodes.", ExitCode.NOT_FOUND,
            )  # fmt: skip

    def waits_for(self, run: int, online: Callable[[], set[int]]) -> str:
        """Return why a run has no nodes now, if that is because of its sites; otherwise an empty text."""
        choice = self.of(run)
        if choice.is_open:
            return ""
        sites = self._site_of
        there = [sites.get(node, "") for node in online() if choice.admits(sites.get(node, ""))]
        if not there and choice.sites:
            return f"No node of the chosen sites is online ({', '.join(choice.sites)})."
        return choice.shortage(set(there) - {""}, self._sites().of)

    def restrict(self) -> None:
        """Have Flower's state keep to the choices: it lists no other nodes for a run, and takes no message to them."""
        state_class = internals.link_state()
        listed, store = state_class.get_nodes, state_class.store_message_ins

        @functools.wraps(listed)
        def get_nodes(state: Any, run_id: int) -> set[int]:
            return self._seen(self.of(run_id), listed(state, run_id))

        @functools.wraps(store)
        def store_message_ins(state: Any, message: Any) -> str | None:
            run, node = message.metadata.run_id, message.metadata.dst_node_id
            choice = self.of(run)
            if choice.sites and not choice.admits(self._site_of.get(node, "")) and node != _superlink():
                who = called(state, node)
                log.warning("Run %d may not send to %s: its site was not chosen (FL_SITES, --sites).", run, who)
                return None
            return store(state, message)

        state_class.get_nodes = get_nodes  # type: ignore[method-assign, assignment]
        state_class.store_message_ins = store_message_ins  # type: ignore[method-assign, assignment]

    def _seen(self, choice: SiteChoice, online: set[int]) -> set[int]:
        if choice.is_open:
            return online
        sites = self._site_of
        chosen = {node for node in online if choice.admits(sites.get(node, ""))}
        there = {sites[node] for node in chosen if node in sites}
        return chosen if len(there) >= choice.least else set()

    @property
    def _site_of(self) -> Mapping[int, str]:
        """The site of each node that has one, by Flower's id."""
        sites = self._sites()
        if self._names[0] is not sites:
            self._names = (sites, {int(node.node): site.name for site, node in sites.nodes() if node.node})
        return self._names[1]


def _superlink() -> int:
    return int(internals.constants().SUPERLINK_NODE_ID)
