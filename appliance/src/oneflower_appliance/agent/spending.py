"""What this node has spent of the privacy budget of its site: the agent publishes it when it has changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import PRIVACY_LEDGER
from oneflower_appliance.privacy_budget import Budget
from oneflower_appliance.privacy_ledger import PrivacyLedger

if TYPE_CHECKING:
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.site_policy import SitePolicy

log = logging.getLogger(__name__)


class Spending:
    """What the SuperNode on `machine` has spent. Its process writes the ledger; here it is only read."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path = machine.home / PRIVACY_LEDGER
        self._told: dict[str, str] = {}

    def said(self, policy: SitePolicy | None) -> dict[str, str]:
        """Return the attribute with what was spent. Without `[privacy]` in the policy it is empty."""
        text = ""
        if policy is not None and policy.privacy:
            try:
                text = Budget.of(policy.privacy, PrivacyLedger(self.path, policy.privacy.period)).text
            except OneflowerError as error:
                log.warning("%s", error.sentence)
        self._told = {attributes.PRIVACY.name: attributes.PRIVACY.write(text)}
        return self._told

    def publish_news(self, policy: SitePolicy | None) -> None:
        """Publish what was spent, if that has changed. If OneGate fails, the next call tries again."""
        before, onegate = self._told, self._machine.onegate
        if self.said(policy) == before or onegate is None:
            return
        try:
            onegate.publish(self._told)
        except OneGateError:
            self._told = before
