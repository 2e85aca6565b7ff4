"""The machine that a role boots on, and how it speaks to OpenNebula."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.systemd import rest
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.agent.journal import Journal
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.values import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """The machine a role boots on: who it is (context), what is wanted (settings), and where things are kept."""

    home: Path
    context: dict[str, str]
    settings: Settings
    journal: Journal
    onegate: OneGate | None

    @property
    def address(self) -> str:
        """The machine's own address. Raises `OneflowerError` when the context names none."""
        if address := self.context.get("ETH0_IP"):
            return address
        raise OneflowerError(
            "The context names no address for this machine (ETH0_IP).",
            'Give the VM template a NIC and NETWORK="YES" in its CONTEXT section.',
            ExitCode.ENVIRONMENT,
        )

    @property
    def loopback(self) -> str:
        """The machine's own loopback address: 127.0.0.1, or its address where machines share one host's loopback."""
        address = self.context.get("ETH0_IP", "")
        return address if address.startswith("127.") else "127.0.0.1"

    def insist(self, ask: Callable[[OneGate], T], patience: float = float("inf"), backoff: Backoff | None = None) -> T:
        """Ask OneGate until it answers; give up when asking again cannot help, or after `patience` seconds."""
        assert self.onegate is not None  # noqa: S101 - callers ask only inside OpenNebula
        deadline = time.monotonic() + patience
        for delay in (backoff or Backoff(cap=10)).delays():
            try:
                return ask(self.onegate)
            except OneGateError as error:
                if not error.heals or time.monotonic() + delay > deadline:
                    raise
                self.journal.waiting(f"{error.sentence} Trying again.")
            rest(delay)
        raise AssertionError  # delays never end

    def publish(self, values: dict[str, str]) -> str:
        """Publish attributes, insisting. Outside OpenNebula there is nobody to tell."""
        if self.onegate is None:
            return "not inside OpenNebula, nothing published"
        self.insist(lambda onegate: onegate.publish(values))
        return "published " + ", ".join(values)
