"""One cloud: its OneFlow, its core, and its surroundings, in which the two kinds of clouds differ.

Every failure becomes one `OneflowerError`. Every wait has a limit. A caller that waits for a cloud anyway can wait
through its short outages too (`Cloud.patient`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.cloud.core import CoreClient
from oneflower.cloud.oneflow import OneFlowClient
from oneflower.cloud.outages import USUAL, Limits, Outages

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.surroundings import Surroundings


class Cloud:
    """One OpenNebula, or the local cloud. Its clients' methods raise `OneflowerError`.

    `tell` receives what a person who waits should know, such as an outage.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        surroundings: Surroundings,
        tell: Callable[[str], None] = lambda _: None,
        limits: Limits = USUAL,
    ) -> None:
        self.endpoints = endpoints
        self.surroundings = surroundings
        self.tell = tell
        self._outages = Outages(self._revive, tell, limits)
        self.oneflow = OneFlowClient(endpoints, self._outages, self._help_of, limits)
        self.core = CoreClient(endpoints, self._outages, self._help_of, limits)

    def close(self) -> None:
        """Close connections."""
        self.oneflow.close()

    def patient(self) -> AbstractContextManager[None]:
        """Within this block, wait through outages of up to a minute instead of failing at the first."""
        return self._outages.patient()

    def _help_of(self, variable: str) -> str:
        return self.surroundings.when_unreachable(variable)

    def _revive(self) -> bool:
        """Let the surroundings restart a server that did not answer, if they can."""
        endpoints = self.surroundings.revive()
        if endpoints is None:
            return False
        self.endpoints = endpoints
        self.oneflow.connect(endpoints)
        self.core.connect(endpoints)
        return True
