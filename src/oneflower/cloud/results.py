"""Fetches and saves the files of a run from the SuperLink: model, metrics, convergence plot and model card."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from oneflower.cloud import reports
from oneflower.cloud.best_model import best_model_file
from oneflower.cloud.card import Judged, model_card
from oneflower.cloud.run_result import RunResult
from oneflower.cloud.superlink import TooLongError
from oneflower_appliance.best_round import usual_best
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, replacing, write_atomic
from oneflower_appliance.node_findings import find
from oneflower_appliance.node_reports import is_file
from oneflower_appliance.run_folder import (
    ACCEPTED,
    CHOICE,
    DATA,
    MESSAGES,
    METRICS,
    MODEL,
    PERSONAL,
    RESULT,
    Messages,
    is_ours,
)
from oneflower_appliance.runs import read_rows
from oneflower_appliance.site_scores import scores_in

if TYPE_CHECKING:
    from oneflower.cloud.reports import Machines
    from oneflower.cloud.superlink import SuperLinkClient
    from oneflower_appliance.run_state import RunState


_SAVED = ("metrics.json", "convergence.png", "convergence.svg", "card.md", "reports.jsonl")


@dataclass(frozen=True)
class Most:
    """Limits for the files of an app that are fetched, together: bytes and files."""

    bytes: int = 2 << 30
    files: int = 1000


USUAL = Most()


@dataclass(frozen=True)
class Places:
    """Where the files of a run are to be saved."""

    model: Path
    metrics: Path
    plot: Path
    plot_svg: Path
    card: Path
    reports: Path
    more: Path

    @classmethod
    def within(cls, folder: Path) -> Places:
        """Return places in the run's own folder."""
        metrics, plot, plot_svg, card, reports = (folder / name for name in _SAVED)
        return cls(folder / MODEL, metrics, plot, plot_svg, card, reports, folder)

    @classmethod
    def beside(cls, model: Path) -> Places:
        """Return places next to the model's file."""
        stem = model.with_suffix("")
        metrics, plot, plot_svg, card, reports = (Path(f"{stem}-{name}") for name in _SAVED)
        return cls(model, metrics, plot, plot_svg, card, reports, stem)


def prepare() -> None:
    """Begin to load what draws plots, which takes its time: the run takes longer."""
    threading.Thread(target=importlib.import_module, args=("oneflower.cloud.plot",), daemon=True).start()


def collect(
    link: SuperLinkClient,
    number: str,
    name: str,
    places: Places,
    machines: Machines = reports.UNKNOWN,
    most: Most = USUAL,
    by: str | None = None,
) -> RunResult:
    """Fetch and save the files of a run of the app `name`; `machines` are those of its nodes.

    The model is the last one, or that of the best round `by` a metric; an empty text stands for the usual metric.
    Raises `OneflowerError` or `httpx.HTTPError`.
    """
    left = link.json(f"/runs/{number}/files") or []
    lines = link.text(f"/runs/{number}/files/{METRICS}").splitlines()
    read, damage = read_rows(lines)
    rows = tuple(row.named(machines.names) for row in read)
    summary: dict[str, Any] = link.json(f"/runs/{number}/files/{RESULT}") or {}
    data: dict[str, Any] = link.json(f"/runs/{number}/files/{DATA}") or {}
    for key, path in (("personal", PERSONAL), ("site_choice", CHOICE)):
        if path in left:
            summary[key] = link.json(f"/runs/{number}/files/{path}")
    best = usual_best(rows)
    model, chosen = (MODEL, None) if by is None else best_model_file(number, rows, left, by)
    last = rows[-1].round if rows else 0
    saved: dict[str, Any] = {"damage": damage, "best": best, "round": chosen.round if chosen else last}
    if model in left:
        saved["model"] = _fetch(link, number, model, places.model)
    if model != MODEL:
        with places.model.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        summary["model"] = (summary.get("model") or {}) | {"sha256": digest}
    if rows:
        from oneflower.cloud.plot import plot_convergence  # noqa: PLC0415 - matplotlib takes its time

        found = [row.metrics for row in rows]
        latest = reports.save(link, number, places.reports, machines)
        findings = tuple(replace(one, name=machines.names.get(one.node, "")) for one in find(latest or ()))
        told = reports.load(places.reports) if latest else []
        across = scores_in(told, chosen.round if chosen else None)
        content = {
            "run": number, "app": name, **summary, "machines": dict(machines.names),
            "partitions": dict(machines.partitions), "findings": [one.entry for one in findings],
            "best": asdict(best) if best else None, "model_round": saved["round"], "across": asdict(across),
            "data": data, "rows": found,
        }  # fmt: skip
        write_atomic(places.metrics, json.dumps(content, indent=1) + "\n", SHARED)
        plot_convergence(rows, name, (places.plot, places.plot_svg), told)
        judged = Judged(findings, best, chosen, told, across, machines.names)
        named = {machines.names.get(node, node): said for node, said in data.items()}
        card = model_card(name, number, rows, summary, named, saved.get("model"), judged)
        write_atomic(places.card, card, SHARED)
        saved |= {"metrics": places.metrics, "plot": places.plot, "plot_svg": places.plot_svg, "card": places.card}
        saved |= {"findings": findings, "reports": places.reports if latest else None, "across": across}
    elif MESSAGES in left:
        saved["messages"] = Messages.parse(link.json(f"/runs/{number}/files/{MESSAGES}"))
    saved["more"], saved["not_saved"] = _fetch_more(
        link, number, [path for path in left if not is_ours(path) and not is_file(path)], places, most
    )
    return RunResult(number, name, rows, float(summary.get("seconds", 0)), **saved)


def run_with_model(link: SuperLinkClient, name: str, wanted: str | None, *, scheduled: bool = False) -> tuple[str, str]:
    """Return id and app of the run `wanted`, or of that with the federation's model. Raises `OneflowerError`.

    That is the newest run whose model a schedule accepted, if there is one, otherwise the newest with a model.
    """
    runs = [known_run(link, name, wanted)] if wanted is not None else link.runs()
    for file in (ACCEPTED, MODEL) if scheduled and wanted is None else (MODEL,):
        for run in reversed(runs):
            if _has(link, run.id, file):
                return run.id, run.app.rpartition("/")[2]
    going = [run.id for run in runs if not run.finished]
    raise OneflowerError(
        f"Run {going[-1]} of {name} is still training." if going else f"{name} has no model yet.",
        "Look at `oneflower show`, and ask again when it is completed."
        if going
        else "Train one with `oneflower run`, or deploy with `--set FL_USE_CASE=image-classification`.",
        ExitCode.NOT_FOUND,
    )


def has_model(link: SuperLinkClient, number: str) -> bool:
    """Whether a run has written a model. Raises `httpx.HTTPError`."""
    return _has(link, number, MODEL)


def _has(link: SuperLinkClient, number: str, name: str) -> bool:
    return name in (link.json(f"/runs/{number}/files") or [])


def known_run(link: SuperLinkClient, name: str, wanted: str) -> RunState:
    """Return what is known of a run of the federation `name`. Raises `OneflowerError` when it has none of that id."""
    runs = link.runs()
    for run in runs:
        if run.id == wanted:
            return run
    known = ", ".join(run.id for run in runs) or "none"
    raise OneflowerError(f"{name} has no run {wanted}.", f"It has: {known}.", ExitCode.NOT_FOUND)


def _fetch_more(
    link: SuperLinkClient, number: str, left: list[str], places: Places, most: Most
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Fetch the app's own files, within the limits. Return the files that were saved, and those that were not."""
    saved: list[Path] = []
    lost: list[str] = []
    bytes_left = most.bytes
    for name in left:
        if not _is_inside(name):
            continue
        path = places.more / name
        if len(saved) == most.files:
            lost.append(name)
            continue
        try:
            with replacing(path, SHARED) as stream:
                bytes_left -= link.download(_path_of(number, name), stream, bytes_left)
        except (TooLongError, httpx.HTTPStatusError):
            lost.append(name)
        else:
            saved.append(path)
    return tuple(saved), tuple(lost)


def _fetch(link: SuperLinkClient, number: str, name: str, path: Path) -> Path:
    with replacing(path, SHARED) as stream:
        link.download(_path_of(number, name), stream)
    return path


def _path_of(number: str, name: str) -> str:
    return f"/runs/{number}/files/{quote(name)}"


def _is_inside(path: str) -> bool:
    """Whether a name that a SuperLink gave stays inside the folder that it is to be saved in."""
    return path.isprintable() and not path.startswith("/") and ".." not in path.split("/")
