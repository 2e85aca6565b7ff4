"""Files that an app leaves with its run, for `oneflower model` to fetch."""

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


def leave(grid: Grid, name: str, content: str | bytes) -> None:
    """Leave a file, called `name`, in the folder of the run. Outside a federation of oneflower nothing is written.

    What cannot be written is said in the log; the run goes on.
    """
    runs = os.environ.get(RUNS_VARIABLE)
    if not runs:
        return
    try:
        write_atomic(Path(runs) / str(grid.run.run_id) / name, content, SHARED)
    except OneflowerError as error:
        log.error("%s The run goes on; %s is lost.", error.sentence, name)  # noqa: TRY400
