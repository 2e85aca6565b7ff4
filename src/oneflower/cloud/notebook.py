"""Shows a run in a notebook while it trains: one table that grows, and what is being done."""

from __future__ import annotations

import html
import importlib
import sys
from typing import TYPE_CHECKING, Any

from oneflower.cloud import rowtext
from oneflower.events import Note, StepEnded, ignore

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.events import Event, Notify
    from oneflower_appliance.runs import RunRow


class LiveTable:
    """The rounds of a run so far. `show` is called with it after every change."""

    def __init__(self, show: Callable[[LiveTable], None]) -> None:
        self._show = show
        self._rows: list[RunRow] = []
        self._notes: list[str] = []
        self._doing = ""

    def add(self, row: RunRow) -> None:
        """Show one more round."""
        self._rows.append(row)
        self._doing = "" if row.round >= row.rounds else f"round {row.round + 1} of {row.rounds}"
        self._show(self)

    def notify(self, event: Event) -> None:
        """Show what is being done, and every note."""
        if isinstance(event, Note):
            self._notes.append(str(event))
        else:
            self._doing = "" if isinstance(event, StepEnded) else str(event)
        self._show(self)

    def __repr__(self) -> str:
        return "\n".join(filter(None, [*self._notes, rowtext.as_text(self._rows), self._doing]))

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self._notes)
        return f"{notes}{rowtext.as_html(self._rows)}<div><i>{html.escape(self._doing)}</i></div>"


def observers(row: Callable[[RunRow], None] | None, notify: Notify | None) -> tuple[Callable[[RunRow], None], Notify]:
    """Return what receives rounds and events: what was given. If that is nothing, a notebook shows them itself."""
    if row is not None or notify is not None or not in_notebook():
        return row or ignore, notify or ignore
    display: Callable[..., Any] = importlib.import_module("IPython.display").display
    handles: list[Any] = []

    def show(table: LiveTable) -> None:
        if handles:
            handles[0].update(table)
        else:
            handles.append(display(table, display_id=True))

    table = LiveTable(show)
    return table.add, table.notify


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
