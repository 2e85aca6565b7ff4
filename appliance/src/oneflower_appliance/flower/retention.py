"""Removes the data of ended runs from Flower's own state in a SuperLink.

Flower deletes the messages and objects of an ended run only when a client reads its log or lists the runs. It never
deletes tasks, logs and apps. SQLite returns no space to the disk by itself.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.run_state import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("flwr")

_SLACK = 16 * 2**20  # free bytes that a state may have before it is rewritten


def tidy(state: Any, forget: Iterable[int]) -> None:
    """Delete the data that ended runs no longer need, and all data of the runs to `forget`.

    Active runs are left alone. Then the file is made as small as possible, unless a run is active.
    """
    unwanted = set(forget)
    going = False
    for info in state.get_run_info():
        if info.status.status != FINISHED:
            going = True
            continue
        state.cleanup_run(info.run_id)
        if info.run_id in unwanted:
            _forget(state, info)
    if not going:
        _shrink(state)


def _forget(state: Any, info: Any) -> None:
    """Delete a run's rows, in one transaction. Flower has no call for it."""
    import sqlalchemy as sql  # noqa: PLC0415 - it comes with Flower

    core, link = internals.core_tables(), internals.link_tables()
    run = internals.core_utils().uint64_to_int64(info.run_id)

    def stored(column: Any) -> Any:
        """Return a column with the signed numbers as stored. Releases differ in which columns they map."""
        return sql.type_coerce(column, sql.BigInteger)

    with state.session() as session:
        tasks = session.scalars(sql.select(stored(core.Task.task_id)).where(stored(core.Task.run_id) == run)).all()
        wanted = sql.select(stored(core.SeriesRuns.series_id)).where(stored(core.SeriesRuns.run_id) == run)
        series = session.scalars(wanted).all()
        session.execute(sql.delete(core.TaskLogsTable).where(stored(core.TaskLogsTable.c.task_id).in_(tasks)))
        session.execute(sql.delete(core.Message).where(stored(core.Message.run_id) == run,
                                                       core.Message.reply_to_message_id.is_not(None)))  # fmt: skip
        for model in (core.Message, link.MessageRes, link.MessageIns, core.TaskEvent, core.TaskMessage, core.TaskUsage,
                      core.RunConnector, core.SeriesRuns, link.Run, core.Task):  # fmt: skip
            session.execute(sql.delete(model).where(stored(model.run_id) == run))
        for number in series:
            users = (core.SeriesRuns.series_id, core.Automation.series_id)
            if all(session.scalar(sql.select(column).where(stored(column) == number)) is None for column in users):
                for model in (core.SeriesContext, core.CompactedContext, core.RunSeries):
                    session.execute(sql.delete(model).where(stored(model.series_id) == number))
        if session.scalar(sql.select(link.Run.fab_id).where(link.Run.fab_id == info.fab_id)) is None:
            state.delete_app(info.federation_id, f"@{info.fab_id}")
        used = [link.Run.fab_hash, core.FederationApp.fab_hash]
        if not any(session.scalar(sql.select(column).where(column == info.fab_hash)) for column in used):
            session.execute(sql.delete(core.Fab).where(core.Fab.fab_hash == info.fab_hash))
            uninstall(info.fab_hash)
    log.debug("Run %d is forgotten.", info.run_id)


def uninstall(fab_hash: str) -> None:
    """Remove the folder into which Flower unpacked an app for its processes, if it is there."""
    constants = internals.constants()
    home = internals.core_utils().get_flwr_home()
    for folder in (home / constants.APP_DIR).glob(f"*.{fab_hash[: constants.FAB_HASH_TRUNCATION]}"):
        shutil.rmtree(folder, ignore_errors=True)


def _shrink(state: Any) -> None:
    """Return free space to the disk, if there is much of it."""
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    with state._engine.connect() as connection:  # noqa: SLF001 - a vacuum cannot be in a session, which is a transaction
        raw = connection.execution_options(isolation_level="AUTOCOMMIT")
        free, page = (raw.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("freelist_count", "page_size"))
        try:
            if free * page > _SLACK:
                raw.exec_driver_sql("VACUUM")
            raw.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except OperationalError as error:
            log.debug("The state is not rewritten: %s", error)  # it is in use; the next time will do
