"""Which runs a SuperLink keeps: the newest FL_KEEP_RUNS, with their files and checkpoints.

It also keeps runs that have not ended, the runs that these resume, and the newest run of each pre-built app. That one
tells the agent that it has started what the form asks for. With a schedule it keeps the run that has the model, too.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from oneflower_appliance.run_folder import Origin
from oneflower_appliance.use_cases import publisher_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.run_state import RunState

log = logging.getLogger(__name__)


class Retention:
    """Removes old files of one SuperLink's runs in the folders `runs` and `checkpoints`, but `also` keeps some."""

    def __init__(
        self, api: SuperLinkApi, keep: int, runs: Path, checkpoints: Path, also: Callable[[], set[str]] = set
    ) -> None:
        self._api = api
        self._also = also
        self._keep = keep
        self._runs = runs
        self._checkpoints = checkpoints
        self._ended: set[str] | None = None

    def look(self, runs: Sequence[RunState]) -> None:
        """Remove what is too old, if a run has ended since the last look. `runs` are all runs, oldest first.

        Raises `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        ended = {run.id for run in runs if run.finished}
        if ended == self._ended:
            return
        kept = self._kept(runs)
        old = [run.id for run in runs if run.id not in kept]
        needed = {Origin.of(self._runs / number).first for number in kept}
        # The SuperLink forgets a run last, so an interrupted removal is repeated.
        removed = [number for number in old if self._remove(number, needed)]
        self._api.tidy(removed)
        self._ended = ended - set(removed)
        if removed:
            log.info("Runs removed: %d. The newest %d are kept (FL_KEEP_RUNS).", len(removed), self._keep)

    def _remove(self, number: str, needed: set[str]) -> bool:
        """Remove the checkpoints of a run, unless another run shares them, and then its folder."""
        folder = self._runs / number
        first = Origin.of(folder).first
        folders = [folder] if first in needed else [self._checkpoints / first, folder]
        try:
            for found in folders:
                if found.exists():
                    shutil.rmtree(found)
        except OSError as error:
            log.warning("Run %s cannot be removed: %s.", number, error)
            return False
        return True

    def _kept(self, runs: Sequence[RunState]) -> set[str]:
        kept = {run.id for run in runs[-self._keep :]} | self._also()
        kept |= set({run.app: run.id for run in runs if run.app.startswith(publisher_name(""))}.values())
        for run in runs:
            number = "" if run.finished else run.id
            while number:
                kept.add(number)
                number = Origin.of(self._runs / number).resumes
        return kept
