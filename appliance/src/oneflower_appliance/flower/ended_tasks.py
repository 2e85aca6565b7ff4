"""Answers for a task that the policy of its site ended, where stock Flower starts the tasks (FL_EXECUTION=stock).

Flower notices only later that a task has ended, and nobody tells it why. The task's guard leaves a file that says so in
a folder, and this process looks there.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.nodeloop import answer_for

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("flwr")

_LOOK = 0.5  # seconds
_SUFFIX = ".json"


def leave(folder: int, token: str, how: str) -> None:
    """Leave word, as a guard, in an open folder: the token of a task, and how it ended. An error is not reported."""
    name = str(os.getpid())
    with suppress(OSError):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        with os.fdopen(opened, "w") as stream:
            json.dump({"token": token, "how": how}, stream)
        os.rename(name, name + _SUFFIX, src_dir_fd=folder, dst_dir_fd=folder)


def token_of(arguments: list[str]) -> str:
    """Return the token of the task that stock Flower started with this command line, empty if it did not."""
    name = "--token"
    return arguments[arguments.index(name) + 1] if name in arguments[:-1] else ""


def answer_for_ended_tasks(folder: Path) -> None:
    """Have the loop of this process's SuperNode answer at once for the tasks of which there is word in `folder`."""
    loop = internals.node_loop()
    pull = loop._pull_and_store_message  # noqa: SLF001 - there is no other way in
    states: list[Any] = []

    @functools.wraps(pull)
    def pulling(**arguments: Any) -> int | None:
        if not states:
            states.append(arguments["state"])
            threading.Thread(target=_look_after, args=(folder, states[0]), name="ended", daemon=True).start()
        run_id: int | None = pull(**arguments)
        return run_id

    loop._pull_and_store_message = pulling  # noqa: SLF001


def _look_after(folder: Path, state: Any) -> None:
    while True:
        answer(folder, state)
        time.sleep(_LOOK)


def answer(folder: Path, state: Any) -> None:
    """Answer for the tasks of which there is word now."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValueError, KeyError):
            said = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
            if task := state.get_task_by_token(said["token"]):
                log.error("The process of a task %s.", said["how"])
                state.finish_task(task.task_id, sub_status="failed", details=f"Its process {said['how']}.")
                answer_for(state, {task.run_id}, said["how"])
