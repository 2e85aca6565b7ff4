"""Files that an app saves with its run. `oneflower model` fetches them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.orders import RUNS_VARIABLE

if TYPE_CHECKING:
    from flwr.serverapp import Grid

log = logging.getLogger("flwr")


def save_result(grid: Grid, name: str, content: str | bytes) -> None:
    """Save a file, called `name`, in the folder of the run. Outside a federation of oneflower, nothing is written.

    The log says what cannot be written; the run continues.
    """
    runs = os.environ.get(RUNS_VARIABLE)
    if not runs:
        return
    try:
        write_atomic(Path(runs) / str(grid.run.run_id) / name, content, SHARED)
    except OneflowerError as error:
        log.error("%s The run continues; %s is lost.", error.sentence, name)  # noqa: TRY400
