"""Where a run begins: at its first round, or where the run that it resumes ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_folder import Origin
from oneflower_appliance.training.checkpoints import Checkpoint, Checkpoints, of_trained_model
from oneflower_appliance.training.recorder import earlier_rounds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flwr.app import ArrayRecord

EVALUATE_AGAIN = "evaluate_again"  # in a row: the evaluation changed the strategy's state


@dataclass(frozen=True)
class Beginning:
    """The checkpoint that a run resumes, and the lines of the completed rounds.

    `unevaluated` is the row of a round that is trained and must still be evaluated, empty if the last round is
    complete. If the evaluation changes the strategy's state, it is repeated from the state before.
    """

    checkpoint: Checkpoint | None = None
    earlier: list[str] = field(default_factory=list)
    unevaluated: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, checkpoints: Checkpoints) -> Beginning:
        """Return where the run in `folder` begins."""
        before = Origin.line(folder)[1:]
        trained = (of_trained_model(path) for path in before)
        if not before or not (found := checkpoints.latest() or next(filter(None, trained), None)):
            return cls()
        # The run that it resumes may have died before it recorded anything; then the run before that has the rounds.
        earlier = next(filter(None, (earlier_rounds(path, found.round) for path in before)), [])
        rows = {row["round"]: row for row in map(json.loads, earlier)}
        if found.round in rows and not rows[found.round].get(EVALUATE_AGAIN):
            return cls(found, earlier)
        return cls(found, [line for line in earlier if json.loads(line)["round"] < found.round], dict(found.row))

    @property
    def done(self) -> int:
        """The number of rounds that are complete."""
        return self.checkpoint.round - bool(self.unevaluated) if self.checkpoint else 0

    def check(self, arrays: ArrayRecord | None, strategy: str, rounds: int) -> None:
        """Raise `OneflowerError` unless a run of `rounds` with this model and strategy can begin here.

        `arrays` is None if the model is not known before the first round.
        """
        if self.checkpoint is None:
            return
        self.checkpoint.check_fits(arrays, strategy)
        if self.checkpoint.round > rounds:
            raise OneflowerError(
                f"The checkpoint is of round {self.checkpoint.round}, and the run is to have {rounds}.",
                "Ask for more rounds.",
                ExitCode.INVALID_INPUT,
            )
