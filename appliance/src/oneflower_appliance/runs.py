"""The rounds of a run, as they were recorded, and the sentences about the run that follow from them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

LONGEST_REASON = 500
PHASES = ("train", "evaluate")  # of a round, in which a node may do its part or not
FAULT_KINDS = ("failed", "left out", "no answer", "away")
COLUMNS = {"loss": ("loss",), "accuracy": ("accuracy", "acc")}  # and the suffixes of the names of their metrics
SOURCES = ("server", "evaluate")  # which count as evaluations, the better one first
ACROSS = "across"  # what the evaluations on several sites have together (`site_scores`)
_PYTHON = re.compile(r"<class '(?:.*\.)?(\w+)'>:<'(.*)'>", re.DOTALL)
_ALWAYS = ("round", "rounds", "seconds", "nodes", "failures")
_PACKED: dict[str, type[int | float]] = {
    "round": int, "rounds": int, "seconds": float, "nodes": int, "failures": int, "asked": int,
    "loss": float, "accuracy": float, "train_loss": float,
}  # fmt: skip
_NONE = "-"
# What reading JSON raises that has another form than it should: a disk or an app can damage the files of a run.
GARBAGE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which Python's booleans are not here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Fault:
    """A node that did not do its part in a round.

    `phase` is train or evaluate. `kind` is failed, left out, no answer, or away (it was not asked). `name` is the name
    of its machine if it is known; `node` is Flower's id.
    """

    node: str
    phase: str
    kind: str
    reason: str
    name: str = ""

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Fault:
        """Read an entry of a row's `faults`. Raises `KeyError`."""
        return cls(str(said["node"]), str(said["phase"]), str(said["kind"]), _one_line(str(said["reason"])))

    @property
    def entry(self) -> dict[str, str]:
        """What `parse` reads."""
        return {"node": self.node, "phase": self.phase, "kind": self.kind, "reason": self.reason}

    @property
    def sentence(self) -> str:
        """The node, what happened, and why."""
        who = f"{self.name} (node {self.node})" if self.name else f"node {self.node}"
        doing = "training" if self.phase == "train" else "evaluation"
        what = {"failed": f"failed in {doing}", "left out": f"was left out of {doing}", "away": f"missed {doing}"}
        return f"{who} {what.get(self.kind, f'did not answer in {doing}')}: {self.reason}"


def plain_reason(text: str) -> str:
    """Return the reason in an error message of Flower, in one line, without what is only for programs."""
    found = _PYTHON.fullmatch(text.strip())
    if found is None:
        return _one_line(text)
    kind, said = found.groups()
    # The text of a `OneflowerError` is already a sentence.
    return _one_line(said if kind.endswith(("DataError", "OneflowerError")) else f"{kind}: {said}")


def _one_line(text: str) -> str:
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    return " ".join(words)[:LONGEST_REASON] or "no reason was given"


@dataclass(frozen=True)
class RunRow:
    """One round. What is not known is None.

    `nodes` of the `asked` nodes trained. `loss` and `accuracy` are from an evaluation, by the server or by the nodes,
    the same one in every round. `train_loss` is the loss on the nodes while they trained.
    """

    round: int
    rounds: int
    seconds: float
    nodes: int
    failures: int
    loss: float | None
    accuracy: float | None
    metrics: Mapping[str, Any]
    asked: int | None = None
    train_loss: float | None = None
    faults: tuple[Fault, ...] = ()

    @classmethod
    def parse(cls, line: str) -> RunRow:
        """Read a line of metrics.jsonl. Raises `ValueError` if it is not one."""
        try:
            return cls._of(json.loads(line))
        except GARBAGE as error:
            raise ValueError(f"not a round's line: {error!r}") from error

    @classmethod
    def _of(cls, row: dict[str, Any]) -> RunRow:
        columns = row["columns"] if "columns" in row else sources_of(row, {})
        measured = {source: dict(row.get(source) or {}) for source in ("train", *SOURCES)}
        found = {name: metric(measured.get(columns.get(name, "")), name) for name in COLUMNS}
        asked = row.get("asked")
        return cls(
            int(row["round"]), int(row["rounds"]), float(row["seconds"]), int(row["nodes"]), int(row["failures"]),
            found["loss"], found["accuracy"], row, None if asked is None else int(asked),
            metric(measured["train"], "loss"), tuple(Fault.parse(said) for said in row.get("faults", ())),
        )  # fmt: skip

    def named(self, names: Mapping[str, str]) -> RunRow:
        """Return it with nodes named after their machines; `names` has the names by Flower's ids."""
        return replace(self, faults=tuple(replace(fault, name=names.get(fault.node, "")) for fault in self.faults))

    @property
    def share(self) -> str:
        """How many nodes trained, of how many asked."""
        return str(self.nodes) if self.asked is None else f"{self.nodes}/{self.asked}"


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file in the folder of a run. Raises `OSError`."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def readable(lines: Iterable[str]) -> Iterator[tuple[str, RunRow]]:
    """Yield the lines of metrics.jsonl that can be read, with their rounds."""
    for line in lines:
        try:
            row = RunRow.parse(line)
        except ValueError:
            continue
        yield line, row


def read_rows(lines: Sequence[str]) -> tuple[list[RunRow], str]:
    """Return the rounds in lines of metrics.jsonl, and a sentence if some cannot be read; otherwise an empty text."""
    rows = [row for _, row in readable(lines)]
    damaged = len(lines) - len(rows)
    said = f"The record of rounds (metrics.jsonl) is damaged. Lines that cannot be read and are left out: {damaged}."
    return rows, said if damaged else ""


def pack(rows: Sequence[RunRow]) -> str:
    """Return rows in one line, with only numbers, colons and semicolons: a VM can publish these."""
    return ";".join(":".join(_number(getattr(row, name)) for name in _PACKED) for row in rows)


def unpack(text: str) -> tuple[RunRow, ...]:
    """Return the rows that `pack` wrote. Raises `ValueError` for any other text."""
    return tuple(_unpacked(entry.split(":")) for entry in text.split(";"))


def _unpacked(words: Sequence[str]) -> RunRow:
    found: dict[str, Any] = {
        name: None if word == _NONE else kind(word) for (name, kind), word in zip(_PACKED.items(), words, strict=True)
    }
    if None in [found[name] for name in _ALWAYS]:
        raise ValueError(f"a row has no {', '.join(_ALWAYS)}")
    return RunRow(**found, metrics={})


def _number(value: int | float | None) -> str:  # noqa: PYI041 - int and float are written differently
    if value is None:
        return _NONE
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def metric(found: Mapping[str, Any] | None, column: str) -> float | None:
    """Return the metric for a column, or None."""
    for name, value in (found or {}).items():
        if isinstance(value, int | float) and name.lower().replace("-", "_").split("_")[-1] in COLUMNS[column]:
            return float(value)
    return None


def numbers(found: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {str(name): float(value) for name, value in (found or {}).items() if is_number(value)}


def sources_of(row: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Return the evaluation that each column comes from, given what is `known` from earlier rounds.

    A column keeps its source, so its meaning never changes during a run.
    """
    found = {
        column: next((source for source in SOURCES if metric(row.get(source), column) is not None), "")
        for column in COLUMNS
    }
    return {column: source for column, source in (found | dict(known)).items() if source}


def shortcoming(rows: Sequence[RunRow]) -> str:
    """Return what is wrong with a run that Flower calls completed: it trained nothing, or was never evaluated."""
    if not rows:
        return ""
    if not any(row.nodes for row in rows):
        return _told("It trained nothing: every node failed in every round.", rows, "train")
    asked = any(row.metrics.get("evaluate_asked") for row in rows)
    tested = any(row.metrics.get("evaluated") or row.metrics.get("server") for row in rows)
    if asked and not tested:
        return _told("The model was trained and never evaluated: every evaluation failed.", rows, "evaluate")
    return ""


def _told(sentence: str, rows: Sequence[RunRow], phase: str) -> str:
    """Return the sentence, followed by the last fault of each node, without repeats."""
    last: dict[str, Fault] = {fault.node: fault for row in rows for fault in row.faults if fault.phase == phase}
    return "\n  ".join([sentence, *list_faults(last.values())]) if last else f"{sentence} No node was asked."


def list_faults(faults: Iterable[Fault], most: int = 5) -> list[str]:
    """Return the sentences of the first faults, and how many more there are."""
    sentences = [fault.sentence for fault in faults]
    more = len(sentences) - most
    return sentences if more <= 0 else [*sentences[:most], f"and {more} more"]
