"""Starts runs, over TLS: through the SuperLink's API, by `flwr run`, or from the checkpoint of an unfinished run.

`flwr run` takes a second to import Flower. The SuperLink has imported it, and starts a run of an app whose files it is
sent with the same functions. `flwr run` is used for a SuperLink that does not do so (FL_EXECUTION=stock, or an older
release), and for an app that only Flower can judge.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.cloud.app_copy import without_federations
from oneflower.cloud.app_files import app_files
from oneflower.cloud.runconfig import toml_text
from oneflower.cloud.superlink import CONNECTION
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.run_state import COMPLETED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.apps import App
    from oneflower.cloud.runconfig import Value
    from oneflower.cloud.superlink import SuperLinkClient
    from oneflower_appliance.run_state import RunState


def submit(
    link: SuperLinkClient, app: App, config: Mapping[str, Value], chosen: Mapping[str, Any] | None = None
) -> str:
    """Start a run and return its id; `chosen` are its sites. Raises `OneflowerError`."""
    files = app_files(app.folder, app.components)
    if files is not None and (run := link.start(files, config, chosen)):
        return run
    if chosen:  # `flwr run` has no place for it
        raise OneflowerError(
            "Sites cannot be chosen for this run: its SuperLink or its app needs `flwr run` to start it.",
            "Choose them for the whole federation (FL_SITES, FL_MIN_SITES), or deploy it from a current image and with "
            "FL_EXECUTION=warm.",
            ExitCode.CONFLICT,
        )
    with without_federations(app.folder) as folder:
        if not config:
            return str(link.flower("run", str(folder), CONNECTION)["run-id"])
        # In a file, which Flower reads as TOML. What it reads from its command line goes through a pattern of its own,
        # in which a quote inside a text ends the text, and everybody on this machine could read it there.
        with tempfile.TemporaryDirectory(prefix="oneflower-") as place:
            overrides = Path(place) / "run-config.toml"
            write_atomic(overrides, toml_text(config))
            return str(link.flower("run", str(folder), CONNECTION, "--run-config", str(overrides))["run-id"])


def resume(link: SuperLinkClient, before: RunState) -> str:
    """Resume a run from its last checkpoint; return the id of the new run. Raises `OneflowerError`."""
    number = before.id
    if not before.finished:
        raise OneflowerError(
            f"Run {number} has not ended: it is {before.status}.",
            "Look with `oneflower show`, or stop it first.",
            ExitCode.CONFLICT,
        )
    if before.sub_status == COMPLETED:
        raise OneflowerError(f"Run {number} is completed.", "Start another with `oneflower run`.", ExitCode.CONFLICT)
    return link.resume(number)
