"""How a SuperNode of another site joins: it asks at the SuperLink's door with its invitation, and waits for an answer.

Whether it may take part is the SuperLink's decision each time: at boot, and whenever Flower was refused.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.systemd import rest
from oneflower_appliance.attributes import JOINING, NOTHING
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.joining import JoinAnswer, JoinRequest, Reason, Standing, statement
from oneflower_appliance.orders import SITE, SITE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.agent.link import Probe
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.agent.node_key import NodeKey
    from oneflower_appliance.invitation import Invitation

log = logging.getLogger(__name__)

_ASKING = Backoff(first=0.3, cap=2, factor=1.5)  # so that an approval is noticed within that time
_HEALS = (Reason.USED, Reason.BUSY)  # with time, without anybody here
_BUSY = (429, 503, 507)  # statuses of an answer that says nothing about this node


class Joining:
    """The SuperNode on `machine`, as one that was invited. `pause` waits for some seconds."""

    def __init__(self, machine: Machine, invitation: Invitation, pause: Callable[[float], None] = rest) -> None:
        self._machine = machine
        self._invitation = invitation
        self._pause = pause
        self._said = ""
        self._answer: JoinAnswer | None = None
        self._request: JoinRequest | None = None
        self._troubles: tuple[str, ...] = ()

    @property
    def node_config(self) -> dict[str, str]:
        """What the ClientApp is told about its place, once it has one."""
        answer = self._answer
        if answer is None:
            return {}
        return {
            SITE: self._invitation.site if not answer.name else answer.name.partition("/")[0],
            SITE_INDEX: str(answer.site),
            "partition-id": str(answer.number),
            "num-partitions": str(max(answer.nodes, answer.number + 1)),
        }

    def wait(self, endpoint: str, key: NodeKey, probe: Probe) -> str:
        """Ask until the SuperLink's operator has approved this node. Raises `OneflowerError` if it was refused."""
        asked = statement(self._invitation.id, key.public.published)
        request = JoinRequest.make(self._invitation.id, key.public, self._invitation.sign(asked), key.sign(asked))
        self._request = replace(request, troubles=self._troubles)
        own = f"its key is {key.public.long_fingerprint}"
        for delay in _ASKING.delays():
            answer = self._ask(probe, endpoint, self._request.body)
            if answer is not None and answer.standing is Standing.APPROVED:
                self._answer = answer
                self._say("")
                return f"as {answer.name}"
            if answer is not None and answer.reason and answer.reason not in _HEALS:
                raise OneflowerError(
                    f"The SuperLink at {endpoint} refuses this SuperNode ({own}).", answer.reason.sentence,
                    ExitCode.CONFLICT,
                )  # fmt: skip
            if answer is not None:
                self._say(_sentence(answer, own))
            self._pause(delay)
        raise AssertionError  # delays never end

    def tell(self, endpoint: str, probe: Probe, troubles: tuple[str, ...]) -> None:
        """Tell the SuperLink the topics of what is not in order here. It is no reason to wait if it does not hear."""
        assert self._request is not None  # noqa: S101 - it has joined
        self._request, self._troubles = replace(self._request, troubles=troubles), troubles
        with suppress(OneflowerError):
            self._ask(probe, endpoint, self._request.body)

    def _ask(self, probe: Probe, endpoint: str, request: bytes) -> JoinAnswer | None:
        """Return the answer, None if there is none now."""
        try:
            status, said = probe.join(endpoint, request)
        except OSError as error:
            self._machine.journal.waiting(f"The SuperLink at {endpoint} does not answer: {error}. Trying again.")
            return None
        if status in _BUSY:
            return None
        try:
            return JoinAnswer.parse(json.loads(said))
        except (ValueError, RecursionError) as error:
            what = said[:200].decode(errors="replace").strip()
            raise OneflowerError(
                f"The SuperLink at {endpoint} takes no machines of other sites (it answers {status}: {what}).",
                "Its oneflower may be older than this one's. Ask the coordinator.",
                ExitCode.CLOUD,
            ) from error

    def _say(self, sentence: str) -> None:
        """Publish how this node stands, if that has changed."""
        if sentence == self._said:
            return
        self._said = sentence
        if sentence:
            self._machine.journal.waiting(sentence)
        if self._machine.onegate is not None:
            try:
                self._machine.onegate.publish({JOINING.name: JOINING.write(sentence) if sentence else NOTHING})
            except OneGateError as error:
                log.warning("%s", error.sentence)


def _sentence(answer: JoinAnswer, own: str) -> str:
    if answer.standing is Standing.ASKED:
        return f"{answer.name} asks to join; {own}. The coordinator's operator approves it if the keys are the same."
    if answer.standing is Standing.SUSPENDED:
        return f"{answer.name or 'Its site'} was suspended by the coordinator; {own}."
    return f"{answer.reason.sentence if answer.reason else ''} ({own})"
