"""How a node describes its data, in its answer to a survey."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RECORD = "description"
_PROBLEM = "problem"


@dataclass(frozen=True)
class Description:
    """What a node has, or the `problem` because of which its data cannot be used.

    Each app chooses its `facts`, two of which are always there: `examples`, a number, and `source`, a text.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def read(cls, reply: Message) -> Description:
        """Return the description in a node's reply."""
        said: dict[str, Any] = dict(reply.content.config_records[_RECORD])
        return cls(problem=str(said[_PROBLEM])) if _PROBLEM in said else cls(said)

    def reply(self, message: Message) -> Message:
        """Return the reply to the survey's message."""
        said: dict[str, Any] = {_PROBLEM: self.problem} if self.problem else dict(self.facts)
        return Message(RecordDict({_RECORD: ConfigRecord(said)}), reply_to=message)


def answer(message: Message, look: Callable[[], Mapping[str, Any]]) -> Message:
    """Return a node's reply to a survey: the facts that `look` returns, or the sentence with which it fails."""
    try:
        description = Description(look())
    except OneflowerError as error:
        description = Description(problem=error.sentence)
    return description.reply(message)
