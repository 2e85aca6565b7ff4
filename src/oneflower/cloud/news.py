"""What a SuperLink says of one run, from one look to the next: in one request, which it holds until there is news."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.round_state import RoundState
from oneflower_appliance.run_folder import MESSAGES, METRICS
from oneflower_appliance.run_state import RunState

if TYPE_CHECKING:
    from oneflower.cloud.superlink import SuperLinkClient


@dataclass(frozen=True)
class News:
    """The state of a run, what its app logged since the last look, and what it exchanged if it has no rounds yet.

    `held` says whether the SuperLink held the request. `now` is what the run does at this moment, None if the SuperLink
    does not say so.
    """

    state: RunState
    text: str
    messages: dict[str, Any] | None
    held: bool
    now: RoundState | None = None


class Feed:
    """The news of a run. `lines` are the rows of its rounds so far. A request may be held for `seconds`."""

    def __init__(self, link: SuperLinkClient, number: str, seconds: float) -> None:
        self._link = link
        self._number = number
        self._seconds = seconds
        self._latest = 0.0
        self._mark = ""
        self.lines: list[str] = []

    def next(self) -> News:
        """Return what is new, or after `seconds` what is known. Raises `httpx.HTTPError`."""
        query = f"after={self._latest}&rows={len(self.lines)}&mark={self._mark}&wait={self._seconds}"
        found = self._link.json(f"/runs/{self._number}/news?{query}") or self._by_parts()
        self._mark = found["mark"]
        self.lines += found["rows"]
        log = found["log"] or {"text": ""}
        if log["text"]:
            self._latest = log["latest"]
        return News(
            RunState.parse(found["run"]), log["text"], found["messages"], bool(found["held"]), _now(found.get("now"))
        )

    def _by_parts(self) -> dict[str, Any]:
        """Ask a SuperLink that does not know the call, because it is of an older release."""
        run, path = self._link.run(self._number), f"/runs/{self._number}"
        log = self._link.json(f"{path}/log?after={self._latest}")
        lines = self._link.text(f"{path}/files/{METRICS}").splitlines()
        messages = None if lines else self._link.json(f"{path}/files/{MESSAGES}")
        return {"run": run.entry, "log": log, "rows": lines[len(self.lines) :], "messages": messages, "mark": "",
                "held": False}  # fmt: skip


def _now(said: Any) -> RoundState | None:
    """Return what a SuperLink of this or another release says that a run does."""
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        return RoundState.parse(said)
    return None
