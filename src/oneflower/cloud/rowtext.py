"""The rounds of a run as a table: its columns, and their values as text and as HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.runs import list_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oneflower_appliance.runs import RunRow

_IN_COLUMNS = ("loss", "accuracy")
_MOST_OTHERS = 3


@dataclass(frozen=True)
class Column:
    """A column of the table. `width` is in characters."""

    title: str
    width: int
    text: Callable[[RunRow], str]


_ROUND = Column("round", 7, lambda row: f"{row.round}/{row.rounds}")
_TRAIN_LOSS = Column("train loss", 10, lambda row: _number(row.train_loss))
_REST = (
    Column("loss", 8, lambda row: _number(row.loss)),
    Column("accuracy", 8, lambda row: _number(row.accuracy)),
    Column("seconds", 7, lambda row: f"{row.seconds:.1f}"),
    Column("nodes", 5, lambda row: row.share),
)


def columns(first: RunRow) -> tuple[Column, ...]:
    """Return the columns of a run, given its first row.

    If nobody tests the model, the loss of training is shown, in its own column.
    """
    untested = first.loss is None and first.train_loss is not None
    return (_ROUND, _TRAIN_LOSS, *_REST) if untested else (_ROUND, *_REST)


def heading(shown: Sequence[Column]) -> str:
    """Return the line of the titles."""
    return "".join(f"  {column.title:>{column.width}}" for column in shown)


def line(shown: Sequence[Column], row: RunRow) -> str:
    """Return the line of a round, and behind it a few metrics that have no column."""
    return "".join(f"  {column.text(row):>{column.width}}" for column in shown) + _others(row)


def as_text(rows: Sequence[RunRow]) -> str:
    """Return the table as lines, and under each round what went wrong in it."""
    if not rows:
        return ""
    shown = columns(rows[0])
    lines = [heading(shown)]
    for row in rows:
        lines += [line(shown, row), *(f"           {sentence}" for sentence in list_faults(row.faults))]
    return "\n".join(lines)


def as_html(rows: Sequence[RunRow]) -> str:
    """Return the same table as HTML. What nodes said is escaped."""
    if not rows:
        return ""
    shown = columns(rows[0])
    lines = [_cells("th", [column.title for column in shown])]
    for row in rows:
        lines.append(_cells("td", [*(column.text(row) for column in shown), _others(row)]))
        lines += [
            f'<tr><td colspan="{len(shown) + 1}" style="color: #b00">{html.escape(sentence)}</td></tr>'
            for sentence in list_faults(row.faults)
        ]
    return f"<table>{''.join(lines)}</table>"


def _cells(tag: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text.strip())}</{tag}>' for text in texts)}</tr>"


def _others(row: RunRow) -> str:
    """Return the first few metrics of the round's test besides loss and accuracy."""
    tested = row.metrics.get("server") or row.metrics.get("evaluate") or {}
    found = [(name, value) for name, value in tested.items() if name not in _IN_COLUMNS and isinstance(value, float)]
    return "".join(f"  {name} {value:.3f}" for name, value in found[:_MOST_OTHERS])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
