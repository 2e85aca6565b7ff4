"""Whether SuperNodes still work for somebody: the SuperLink's side.

While its ClientApp works, a SuperNode has to learn that its run has ended, and its agent that the round has ended
without it. Both used to ask every few seconds. Here the SuperNode has one request at the SuperLink, which is held (see
`longpoll`), and the SuperLink looks once a second for all of them, however many they are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

if TYPE_CHECKING:
    from oneflower_appliance.flower.late_replies import LateReplies
    from oneflower_appliance.flower.linkstate import LinkState
    from oneflower_appliance.flower.warm.questions import Question

RUN, NODE = "run ", "node "  # what a request is about: its run and its node
_BETWEEN_LOOKS = 1.0  # seconds

log = logging.getLogger("flwr")


class Work:
    """Looks after the requests that wait with a `question`, while there are any."""

    def __init__(self, question: Question, link: LinkState, late: LateReplies) -> None:
        self._question, self._link, self._late = question, link, late
        self._looking: asyncio.Task[None] | None = None
        self.stuck: set[str] = set()

    def watch(self) -> None:
        """Look from now on, until no request waits."""
        if self._question.waiting and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def is_stuck(self, body: bytes) -> bool:
        """Whether the node of a request works on a message whose round has ended."""
        return bool(self.stuck) and not self.stuck.isdisjoint(self._question.subjects(body))

    async def _look(self) -> None:
        while waiting := list(self._question.waiting):
            await asyncio.sleep(_BETWEEN_LOOKS)
            try:
                over, stuck = await run_in_threadpool(self._find, waiting)
            except Exception as error:  # noqa: BLE001 - any error: it is looked again, and asked in the end
                log.debug("Whether nodes still work for somebody is not known: %s", error)
                continue
            self.stuck = stuck
            if over or stuck:
                self._question.wake(over | stuck)
        self.stuck = set()

    def _find(self, waiting: list[str]) -> tuple[set[str], set[str]]:
        runs, nodes = ({int(one.removeprefix(kind)) for one in waiting if one.startswith(kind)} for kind in (RUN, NODE))
        over = {f"{RUN}{run}" for run in runs - self._link.of_those_going(runs)}
        return over, {f"{NODE}{node}" for node in self._late.stuck(nodes)}
