"""Looks at the federations that somebody watches, once a second, and at no other."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower.api import Federation
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

    from oneflower.api import FederationStatus, RunState, SiteStatus
    from oneflower.web.background import Background
    from oneflower.web.signal import Signal

log = logging.getLogger(__name__)
_ALL = -1  # no service has this number
_PULSE = 1.0  # seconds
_LEAST_RUNS = 30.0  # seconds after which runs are looked for that nobody announced
_LEAST_SITES = 5.0  # seconds after which it is looked whether nodes of sites are online


@dataclass
class Look:
    """What is known of one federation, or of `all`.

    `gone` is set when it is no longer there, and `error` is why nothing is known at the moment.
    """

    status: FederationStatus | None = None
    all: list[FederationStatus] | None = None
    runs: tuple[RunState, ...] = ()
    sites: tuple[SiteStatus, ...] = ()
    error: str = ""
    gone: bool = False
    watchers: int = 0
    task: asyncio.Task[None] | None = None
    asked: float = field(default=0.0, repr=False)
    asked_sites: float = field(default=0.0, repr=False)


class Looks:
    """All that is watched now."""

    def __init__(self, background: Background, signal: Signal) -> None:
        self._background = background
        self._signal = signal
        self._looks: dict[int, Look] = {}

    def one(self, number: int) -> AbstractContextManager[Look]:
        """Within this block, keep looking at a federation, and yield what is known of it."""
        return self._watching(number, self._look)

    def all(self) -> AbstractContextManager[Look]:
        """Within this block, keep looking at all federations, and yield what is known of them."""
        return self._watching(_ALL, self._look_at_all)

    def expect_run(self, number: int) -> None:
        """Look for the runs of a federation at once: there is a new one."""
        if number in self._looks:
            self._looks[number].asked = 0.0

    def expect_sites(self, number: int) -> None:
        """Look for the sites of a federation at once: they have changed."""
        if number in self._looks:
            self._looks[number].asked_sites = 0.0

    @contextmanager
    def _watching(self, number: int, look_at: Callable[[int, Look], Awaitable[None]]) -> Iterator[Look]:
        look = self._looks.setdefault(number, Look())
        look.watchers += 1
        if look.task is None:
            look.task = asyncio.create_task(self._keep_looking(number, look, look_at))
        try:
            yield look
        finally:
            look.watchers -= 1
            if not look.watchers:
                look.task.cancel()
                del self._looks[number]

    async def _keep_looking(self, number: int, look: Look, look_at: Callable[[int, Look], Awaitable[None]]) -> None:
        while not look.gone:
            try:
                await look_at(number, look)
                look.error = ""
            except OneflowerError as error:
                look.error = error.sentence
                look.gone = error.code is ExitCode.NOT_FOUND
            except Exception as error:
                log.exception("a defect in looking at federations")
                look.error = f"A defect in oneflower: {type(error).__name__}: {error}"
            self._signal.notify()
            await asyncio.sleep(_PULSE)

    async def _look_at_all(self, _number: int, look: Look) -> None:
        look.all = await self._background.ask(lambda cloud: [found.status() for found in Federation.all(cloud)])

    async def _look(self, number: int, look: Look) -> None:
        before = look.status.training if look.status else None
        places = look.status.sites if look.status else ()
        look.status = await self._background.ask(lambda cloud: Federation.find(cloud, str(number)).status())
        now, training = asyncio.get_running_loop().time(), look.status.training
        new = training is not None and (before is None or (before.id, before.status) != (training.id, training.status))
        link = look.status.superlink
        if link is not None and link.ready and look.status.control and (new or now - look.asked > _LEAST_RUNS):
            look.asked = now
            look.runs = await self._background.ask(lambda cloud: Federation.find(cloud, str(number)).runs())
        often = _LEAST_SITES if look.sites else _LEAST_RUNS
        changed = places != look.status.sites or now - look.asked_sites > often
        if link is not None and link.ready and look.status.control and changed:
            look.asked_sites = now
            look.sites = await self._background.ask(lambda cloud: Federation.find(cloud, str(number)).sites.all())
