"""The model that a run begins with, if that is the model of an earlier run and not the app's own (`INITIAL_RUN`)."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_folder import INITIAL_RUN
from oneflower_appliance.training.checkpoints import of_trained_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("flwr")


def initial_arrays(config: Mapping[str, Any], runs: Path, arrays: ArrayRecord) -> ArrayRecord:
    """Return the arrays that a run begins with: `arrays` unless its config names an earlier run, in a folder of `runs`.

    Raises `OneflowerError` if that run has no model, or one of another form.
    """
    number = str(config.get(INITIAL_RUN, ""))
    if not number:
        return arrays
    found = of_trained_model(runs / number) if re.fullmatch(r"\d{1,20}", number) else None
    if found is None:
        raise OneflowerError(
            f"Run {number} has no model to begin with ({INITIAL_RUN}): there is none, or its file is damaged.",
            "Name a run that has completed, or leave it out. A schedule does so with FL_SCHEDULE_FROM=none.",
            ExitCode.NOT_FOUND,
        )
    if {name: tuple(array.shape) for name, array in arrays.items()} != {n: a.shape for n, a in found.arrays.items()}:
        raise OneflowerError(
            f"The model of run {number} has other arrays than this app's ({INITIAL_RUN}).",
            "Begin with a run of the same app, model and data. A schedule leaves it out with FL_SCHEDULE_FROM=none.",
            ExitCode.INVALID_INPUT,
        )
    log.info("Beginning with the model of run %s.", number)
    return ArrayRecord({name: Array(array) for name, array in found.arrays.items()})
