"""The wrapper around an app in the process of its task: its working folder, and the report of its failure.

Flower's tasks begin in the folder in which their SuperLink or SuperNode was started, which is `/` in an image. Here
each run has its own folder, `runs`/<run id>/files. On the SuperLink, the files that a ServerApp writes there go to the
user with the results. On a SuperNode, they stay for the ClientApp's next message of the same run.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, private_directory, write_atomic
from oneflower_appliance.flower import internals, own_data
from oneflower_appliance.log_lines import about
from oneflower_appliance.orders import DATA_PATH, SERVER_DATA_VARIABLE
from oneflower_appliance.run_folder import FAILURE, FILES, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

_INSTALLED = "installed"  # the file of a run's folder that says which app was installed, and where
_KEPT_ON_NODES = 8  # runs
_FLOWER = "flwr"


def serverapp_works_in(runs: Path) -> None:
    """Make this process's ServerApp work in its run's folder, where it finds the SuperLink's data.

    The text of a `OneflowerError` is saved beside it.
    """
    grid, task = internals.grid_class(), internals.serverapp_task()
    set_run, run_app = grid.set_run, task.run_
    folders: list[Path] = []

    @functools.wraps(set_run)
    def entering(self: Any, run: Any) -> None:
        set_run(self, run)
        about(run=str(run.run_id))
        folders.append(_enter(runs, run.run_id))
        _offer(os.environ.get(SERVER_DATA_VARIABLE, ""), folders[-1])

    @functools.wraps(run_app)
    def running(*args: Any, **kwargs: Any) -> Any:
        try:
            return _without_exit(run_app, *args, **kwargs)
        except OneflowerError as error:
            write_atomic(folders[-1].parent / FAILURE, Failure(error.message, error.hint).text, SHARED)
            raise

    grid.set_run, task.run_ = entering, running  # type: ignore[method-assign]
    tell_without_traceback()


def _without_exit(run_app: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run an app, and raise `OneflowerError` if it ends the process: it has failed, and is not lost.

    Flower, too, ends the process in this way, when a run is stopped.
    """
    try:
        return run_app(*args, **kwargs)
    except SystemExit as ending:
        *_, (last, _) = traceback.walk_tb(ending.__traceback__)
        if str(last.f_globals.get("__name__")).partition(".")[0] == _FLOWER:
            raise
        how = f": {ending.code}" if isinstance(ending.code, str) else f" with exit status {ending.code or 0}"
        raise OneflowerError(
            f"The ServerApp ended itself{how}.", "Return from its main function to succeed, raise an error to fail."
        ) from ending


def clientapp_works_in(runs: Path) -> None:
    """Make this process's ClientApp work in its run's folder, where it finds the node's data.

    The folders of the last few runs are kept.
    """
    task = internals.clientapp_task()
    pull: Callable[..., Any] = task.pull_task_input

    @functools.wraps(pull)
    def entering(*args: Any, **kwargs: Any) -> Any:
        found = pull(*args, **kwargs)
        message, context, run, _fab = found
        about(run=str(run.run_id), round=_round_of(message))
        work = _enter(runs, run.run_id)
        os.utime(work.parent)
        _offer(str(context.node_config.get(DATA_PATH) or ""), work)
        for old in _newest_first(runs)[_KEPT_ON_NODES:]:
            shutil.rmtree(old, ignore_errors=True)
        return found

    task.pull_task_input = entering
    tell_without_traceback()


def clientapp_is_installed_once() -> None:
    """Unpack and check the app of a run for its first task only: the next ones find it where it was installed.

    It must be the same bytes. The task must work in its run's folder.
    """
    task = internals.clientapp_task()
    install: Callable[..., Path] = task.install_from_fab

    @functools.wraps(install)
    def installing(fab: bytes, *args: Any, **kwargs: Any) -> Path:
        note, digest = Path.cwd().parent / _INSTALLED, hashlib.sha256(fab).hexdigest()
        with suppress(OSError, ValueError):
            known, place = note.read_text().split("\n")
            if known == digest and Path(place).is_dir():
                return Path(place)
        found = install(fab, *args, **kwargs)
        write_atomic(note, f"{digest}\n{found}")
        return found

    task.install_from_fab = installing


def _round_of(message: Any) -> str:
    """Return the number of the round in which a strategy sent a message, if one did."""
    if message is None or not message.has_content():
        return ""
    group = str(message.metadata.group_id)  # of a strategy of the legacy API
    rounds = (config["server-round"] for config in message.content.config_records.values() if "server-round" in config)
    number = group if group.isdecimal() else str(next(rounds, ""))
    return number if number.isdecimal() else ""


def _enter(runs: Path, run: int) -> Path:
    folder = private_directory(runs / str(run) / FILES)
    os.chdir(folder)
    return folder


def _offer(path: str, work: Path) -> None:
    """Let an app find the data in the folder `path`, if there is one, in its working folder."""
    data = Path(path)
    if data.is_absolute() and data.is_dir():
        try:
            own_data.offer(data, work)
        except OSError as error:
            log.warning("The app does not find the data in its working folder: %s", error)


def _newest_first(runs: Path) -> list[Path]:
    found = []
    for path in runs.iterdir():
        try:
            found.append((path.stat().st_mtime, path))
        except OSError:  # removed by another task
            continue
    return [path for _, path in sorted(found, reverse=True)]


def tell_without_traceback() -> None:
    """Make Flower log only the text of a `OneflowerError`, which says what is wrong and how to fix it."""

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OneflowerError):
            record.msg, record.args, record.exc_info = f"{record.getMessage()}: %s", (error.sentence,), None
        return True

    logging.getLogger("flwr").addFilter(shorten)
