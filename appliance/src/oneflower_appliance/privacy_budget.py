"""What a node has spent of its privacy budget, as its machine publishes it and its site's operator reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oneflower_appliance.privacy_ledger import PrivacyLedger
    from oneflower_appliance.site_privacy import SitePrivacy

_MOST = 10  # runs that are published: the last ones


@dataclass(frozen=True)
class RunSpent:
    """What one run has spent, in how many updates, and when the last of them was made."""

    run: str
    epsilon: float
    updates: int
    last: str


@dataclass(frozen=True)
class Budget:
    """What a node has spent in all, of `max_epsilon` (0: no limit), and what its last runs have, the last one first."""

    epsilon: float
    max_epsilon: float
    delta: float
    clip: float
    noise: float
    period: str = ""
    runs: tuple[RunSpent, ...] = ()

    @classmethod
    def of(cls, privacy: SitePrivacy, ledger: PrivacyLedger) -> Budget:
        """Return what a ledger says. Raises `OneflowerError` if it is damaged."""
        newest = sorted(ledger.entries(), key=lambda one: one.last, reverse=True)[:_MOST]
        runs = tuple(RunSpent(one.run, round(privacy.epsilon(one.cost), 6), one.replies, one.last) for one in newest)
        total = round(privacy.epsilon(ledger.total()), 6)
        return cls(total, privacy.max_epsilon, privacy.delta, privacy.clip, privacy.noise, privacy.period, runs)

    @classmethod
    def parse(cls, text: str) -> Budget | None:
        """Read what `text` wrote; None for anything else, which another machine may have written."""
        try:
            said = json.loads(text)
            runs = tuple(
                RunSpent(str(int(one["run"])), float(one["epsilon"]), int(one["updates"]), str(one["last"])[:30])
                for one in said["runs"][:_MOST]
            )
            numbers = {name: float(said[name]) for name in ("epsilon", "max_epsilon", "delta", "clip", "noise")}
            return cls(**numbers, period=str(said["period"])[:100], runs=runs)
        except (KeyError, TypeError, ValueError, RecursionError):
            return None

    @property
    def text(self) -> str:
        """What `parse` reads."""
        return json.dumps(asdict(self))

    @property
    def sentence(self) -> str:
        """What was spent, and of what."""
        most = f" of {self.max_epsilon:g}" if self.max_epsilon else ", without a limit,"
        period = f", period {self.period}" if self.period else ""
        how = f"clip {self.clip:g}, noise {self.noise:g}{period}"
        return f"epsilon {self.epsilon:.3g}{most} at delta {self.delta:g} ({how})"
