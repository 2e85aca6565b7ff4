"""Takes what nodes say of their privacy budgets out of the replies that a ServerApp gets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.training.accounting import take_spent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message


def note_what_sites_spend() -> None:
    """Make the grid of this process hand out replies without it: an app's strategy expects its own records only."""
    grid = internals.grid_class()
    pull = grid.pull_messages

    @functools.wraps(pull)
    def pull_messages(self: Any, message_ids: Iterable[str]) -> Iterable[Message]:
        return [take_spent(message) for message in pull(self, message_ids)]

    grid.pull_messages = pull_messages  # type: ignore[method-assign]
