"""Says that a run waits for nodes. Flower's strategies do so without a limit, and only their log says it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from flwr.app import Message
    from flwr.serverapp import Grid

    from oneflower_appliance.training.node_ids import NodeIds
    from oneflower_appliance.training.traffic import Traffic

_OFTEN = 10.0  # seconds: an app that waits asks again sooner
_PATIENCE = 5.0  # seconds between two looks: a node that is started again is back soon

_DO = (
    "The run continues when there are enough. Start more with `oneflower scale`, or have another site join; or end the "
    "run with Ctrl-C and let it need fewer."
)
_NEEDED = {  # the attributes of a strategy, of either of Flower's APIs, that say how many nodes a phase needs
    "train": ("min_available_nodes", "min_train_nodes", "min_available_clients", "min_fit_clients"),
    "evaluate": ("min_available_nodes", "min_evaluate_nodes", "min_available_clients", "min_evaluate_clients"),
}


def needed_by(strategy: object, phase: str) -> int:
    """Return how many nodes must be online for a phase, 0 if the strategy does not say it."""
    said = (getattr(getattr(strategy, "strategy", strategy), name, 0) for name in _NEEDED[phase])
    return max(number for number in said if isinstance(number, int))


class _File:
    """The file in the folder of a run that says that it waits for nodes, as long as it does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / WAITING
        self.written = False

    def write(self, sentence: str) -> None:
        self.written = True
        with suppress(OneflowerError):  # the log says it, too
            write_atomic(self._path, f"{sentence} {_DO}\n", SHARED)

    def remove(self) -> None:
        if self.written:
            self.written = False
            with suppress(OSError):  # it was not written
                self._path.unlink()


class Asking:
    """Notices an app without a strategy that asks again and again which nodes are online, and sends them nothing."""

    def __init__(self, folder: Path, traffic: Traffic) -> None:
        self._file = _File(folder)
        self._traffic = traffic
        self._since = self._last = 0.0

    def watch(self, grid: Grid) -> None:
        """Look at what an app asks a grid from now on."""
        ask, push = grid.get_node_ids, grid.push_messages

        def get_node_ids() -> Iterable[int]:
            found = list(ask())
            if self._traffic.counts:
                self._note(len(found))
            return found

        def push_messages(messages: Iterable[Message]) -> Iterable[str]:
            self.end()
            return push(messages)

        vars(grid).update(get_node_ids=get_node_ids, push_messages=push_messages)

    def end(self) -> None:
        """Note that the app no longer waits."""
        self._since = 0.0
        self._file.remove()

    def _note(self, found: int) -> None:
        now = time.monotonic()
        if not self._since or now - self._last > _OFTEN:
            self._since = now
        self._last = now
        if now - self._since > _PATIENCE and not self._file.written:
            self._file.write(
                f"The app asks again and again which nodes are online, and sends them nothing: {found} now."
            )


class Waiting:
    """Notices that a strategy waits for nodes."""

    def __init__(self, folder: Path, nodes: NodeIds) -> None:
        self._file = _File(folder)
        self._nodes = nodes

    @contextmanager
    def said(self, needed: int) -> Iterator[None]:
        """While a strategy chooses nodes, of which it needs so many: say so if they are not there."""
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(needed, over), name="waiting", daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
            self._file.remove()

    def _watch(self, needed: int, over: threading.Event) -> None:
        said = 0
        while not over.wait(_PATIENCE):
            found = self._nodes.seen
            if found >= needed:
                self._file.remove()
            elif not self._file.written or found != said:
                said = found
                verb = "is" if found == 1 else "are"
                self._file.write(f"The strategy waits for nodes: {found} of the {needed} that it needs {verb} online.")
