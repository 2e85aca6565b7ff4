"""Files of runs, fetched from their SuperLinks into a folder that ends with the page."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.api import Federation
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.api import Cloud, RunResult

MODEL, LOG = "model", "log"
# What can be fetched, and how a page calls it: the log, and attributes of `RunResult`.
FILES = {
    LOG: "Log",
    MODEL: "Model",
    "metrics": "Metrics",
    "plot": "Plot",
    "plot_svg": "Plot (SVG)",
    "card": "Model card",
    "reports": "Reports of each node",
}


class Downloads:
    """The files that were fetched. Those of a run that has ended are fetched once."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._ended: dict[tuple[int, str], RunResult] = {}

    def close(self) -> None:
        """Remove them."""
        if self._folder is not None:
            self._folder.cleanup()

    def get(self, cloud: Cloud, number: int, run: str, what: str) -> Path:
        """Return a file of a run of the federation `number`. Raises `OneflowerError` when there is none yet."""
        with self._lock:
            if what == LOG:
                return self._log(cloud, number, run)
            result = self._ended.get((number, run)) or self._fetch(cloud, number, run)
        path: Path | None = getattr(result, what)
        if path is None:
            raise OneflowerError(
                f"Run {run} has no {FILES[what].lower()}.",
                "It has none yet, or its app makes none.",
                ExitCode.NOT_FOUND,
            )
        return path

    def _log(self, cloud: Cloud, number: int, run: str) -> Path:
        path = self._place(number, run) / "run.log"
        lines = Federation.find(cloud, str(number)).logs(None, run=run).lines(consoles_only=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def _fetch(self, cloud: Cloud, number: int, run: str) -> RunResult:
        federation = Federation.find(cloud, str(number))
        over = any(state.id == run and state.finished for state in federation.runs())
        result = federation.fetch_files(self._place(number, run), run)
        if over:
            self._ended[number, run] = result
        return result

    def _place(self, number: int, run: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="oneflower-page-")
        place = Path(self._folder.name) / f"{number}-{run}"
        place.mkdir(exist_ok=True)
        return place
