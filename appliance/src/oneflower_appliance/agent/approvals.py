"""Apps that wait for the approval of this site's operator: the agent publishes them, and brings the approvals."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.approvals import APPROVED, FOLDER, Asks, write_asks
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.approvals import Ask

log = logging.getLogger(__name__)


class Approvals:
    """What waits on `machine`, and what was approved on it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.folder: Path = machine.home / FOLDER
        self._asks = Asks(self.folder)
        self._told: dict[str, str] = {}

    @property
    def said(self) -> dict[str, str]:
        """The attribute with what waits now."""
        return {attributes.ASKS.name: attributes.ASKS.write(write_asks(self._waiting))}

    @property
    def holds(self) -> bool:
        """Whether the SuperNode holds a run now, so that it does not answer in the time of a round."""
        return self._asks.holds

    def forget(self) -> None:
        """Forget what an earlier process of Flower held."""
        self._asks.hold(held=False)

    @property
    def _waiting(self) -> list[Ask]:
        approved = self._asks.approved()
        return [ask for ask in self._asks.pending() if ask.content not in approved]

    def look(self) -> None:
        """Publish what waits, if that has changed, and read what was approved. The next call tries again."""
        onegate = self._machine.onegate
        if onegate is None:
            return
        try:
            if waiting := self._waiting:
                new = onegate.approved(onegate.attributes().get(APPROVED, ""))
                for ask in waiting:
                    if ask.content in new:
                        log.info("The operator of this site approved %s, content %s.", ask.app, ask.content)
                self._asks.approve(new)
            if (said := self.said) != self._told:
                onegate.publish(said)
                self._told = said
        except OneGateError as error:
            log.debug("%s", error.sentence)
        except OneflowerError as error:
            log.warning("What was approved on this machine is not known: %s", error.sentence)
