"""With what the agent failed last, kept while systemd starts it again and again, so that each failure is told once.

systemd gives the agent a folder of its own (RuntimeDirectory) that outlives the agent and not the machine's boot.
Without that folder, as in the local cloud, every failure is told.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = "RUNTIME_DIRECTORY"
_AGAIN = 600.0  # seconds after which the same failure is told once more


class LastError:
    """The failure of the agent before this one, if that failed: in which boot `step`, if it was in one."""

    def __init__(self, folder: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        folder = os.environ.get(_FOLDER, "") if folder is None else folder
        self._path = Path(folder) / "last-error.json" if folder else None
        self._clock = clock
        self._sentence, self._said, self.step = self._read()

    def __bool__(self) -> bool:
        return bool(self._sentence)

    def is_news(self, sentence: str, step: str = "") -> bool:
        """Keep a failure. Returns whether it is to be told: it is another one, or was told long ago."""
        now = self._clock()
        news = sentence != self._sentence or now - self._said >= _AGAIN
        if news or step != self.step:
            self._sentence, self.step = sentence, step
            self._said = now if news else self._said
            self._write({"sentence": sentence, "said": self._said, "step": step})
        return news

    def forget(self) -> None:
        """Forget it, because it is over."""
        self._sentence, self._said, self.step = "", 0.0, ""
        if self._path:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[str, float, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
            return str(found["sentence"]), float(found["said"]), str(found["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0.0, ""

    def _write(self, content: dict[str, object]) -> None:
        if self._path:
            with suppress(OneflowerError):  # then it is told again
                write_atomic(self._path, json.dumps(content))
