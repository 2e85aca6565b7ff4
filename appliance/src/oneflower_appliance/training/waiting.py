"""Says that a strategy waits for nodes. Flower's strategies do so without a limit, and only their log says it."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import WAITING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oneflower_appliance.training.node_ids import NodeIds

_PATIENCE = 5.0  # seconds between two looks: a node that is started again is back soon

_NEEDED = {  # the attributes of a strategy, of either of Flower's APIs, that say how many nodes a phase needs
    "train": ("min_available_nodes", "min_train_nodes", "min_available_clients", "min_fit_clients"),
    "evaluate": ("min_available_nodes", "min_evaluate_nodes", "min_available_clients", "min_evaluate_clients"),
}


def needed_by(strategy: object, phase: str) -> int:
    """Return how many nodes must be online for a phase, 0 if the strategy does not say it."""
    said = (getattr(getattr(strategy, "strategy", strategy), name, 0) for name in _NEEDED[phase])
    return max(number for number in said if isinstance(number, int))


class Waiting:
    """A file in the folder of a run, which is there as long as its strategy waits for nodes."""

    def __init__(self, folder: Path, nodes: NodeIds) -> None:
        self._file = folder / WAITING
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
            self._forget()

    def _watch(self, needed: int, over: threading.Event) -> None:
        said = ""
        while not over.wait(_PATIENCE):
            found = self._nodes.seen
            text = f"{found} of {needed}" if found < needed else ""
            if text == said:
                continue
            said = text
            if text:
                with suppress(OneflowerError):  # the log says it, too
                    write_atomic(self._file, f"{_sentence(found, needed)}\n", SHARED)
            else:
                self._forget()

    def _forget(self) -> None:
        with suppress(OSError):  # it was not written
            self._file.unlink()


def _sentence(found: int, needed: int) -> str:
    return (
        f"The strategy waits for nodes: {found} of the {needed} that it needs {'is' if found == 1 else 'are'} online. "
        "The run continues when they are. Start more with `oneflower scale`, or end the run with Ctrl-C and let the "
        "strategy need fewer."
    )
