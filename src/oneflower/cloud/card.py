"""The model card: what a model was trained on, how, and how good it is, in Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.node_reports import TRAIN
from oneflower_appliance.run_privacy import SITE_HEAD, RunPrivacy
from oneflower_appliance.site_scores import NO_SCORES, SiteScores
from oneflower_appliance.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from oneflower_appliance.best_round import Best
    from oneflower_appliance.node_findings import Finding
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.runs import RunRow


@dataclass(frozen=True)
class Judged:
    """What the rounds of a run show: noticeable nodes and the best round. The model is `chosen` if not the last.

    `reports` are what each node did in each round, and `across` is how good the model is on each site. `names` are
    those of the nodes, by Flower's ids.
    """

    findings: Sequence[Finding] = ()
    best: Best | None = None
    chosen: Best | None = None
    reports: Sequence[NodeReport] = ()
    across: SiteScores = NO_SCORES
    names: Mapping[str, str] = field(default_factory=dict)


def model_card(
    app: str,
    number: str,
    rows: Sequence[RunRow],
    summary: Mapping[str, Any],
    data: Mapping[str, Mapping[str, Any]],
    model: Path | None,
    judged: Judged,
) -> str:
    """Return the card of the model from run `number` of `app`; `data` is what each node reported about its data."""
    findings, best, chosen = judged.findings, judged.best, judged.chosen
    last = next((row for row in rows if chosen and row.round == chosen.round), rows[-1])
    facts: dict[str, Any] = {
        "Strategy": summary.get("strategy", "unknown"),
        "Rounds": f"{last.round} of {last.rounds}",
        "Best round": f"{best.round}, {best.metric} {best.value:.4f}" if best else "unknown",
        f"Nodes that trained in {'that' if chosen else 'the last'} round": last.share.replace("/", " of "),
        "Loss": _number(last.loss),
        "Accuracy": _number(last.accuracy),
        "Seconds": f"{summary.get('seconds', 0):.0f}",
        **_choice(summary.get("site_choice") or {}),
    }
    parts = [f"# {app}, run {number}", _table(("", ""), facts.items())]
    measured = {name: value for name, value in _tested(last).items() if isinstance(value, int | float)}
    if measured:
        after = f"round {last.round}, the best by {chosen.metric}" if chosen else "the last round"
        parts += [f"## Tested after {after}", _table(("Metric", "Value"), measured.items())]
    if (across := judged.across).scores:
        head, *lines = across.table
        parts += [
            "## On the data of each site",
            f"The model of round {across.round}, as each site tested it.",
            _table(head, lines),
        ]
        parts += ["\n".join(f"- {worst.sentence}" for worst in across.worst)] if across.worst else []
    if sites := participation(judged.reports):
        parts += ["## Sites", _table(("Site", "Nodes that trained", "Rounds", "Faults"), sites)]
    parts += _privacy(RunPrivacy.in_row(rows[-1].metrics), judged.names)
    if any(row.faults for row in rows):
        parts += ["## Faults", "What the nodes failed to deliver, and why.", _faults(rows)]
    if findings:
        noticed = "\n".join(f"- {found.sentence}" for found in findings)
        parts += ["## Nodes", f"What the record of the last rounds shows, without a reason:\n\n{noticed}"]
    parts += ["## Data", _data(data)]
    if personal := summary.get("personal"):
        parts += ["## Personal layers", _personal(personal)]
    if config := summary.get("config"):
        parts += ["## Run config", _table(("Key", "Value"), config.items())]
    if versions := summary.get("versions"):
        parts += ["## Versions", _table(("Package", "Version"), versions.items())]
    if model is not None and (arrays := (summary.get("model") or {}).get("arrays")):
        shapes = ((f"`{name}`", _shape(shape)) for name, shape in arrays.items())
        parts += [
            f"## Arrays\n\n`numpy.load({model.name!r})` loads them; sha256 {summary['model']['sha256']}.",
            _table(("Name", "Shape"), shapes),
        ]
    return "\n\n".join(parts) + "\n"


def _privacy(found: RunPrivacy, names: Mapping[str, str]) -> list[str]:
    parts = [found.sentence] if found.sentence else []
    if found.nodes:
        parts += [
            "These nodes clip each update and add noise to it themselves, and tell what they have spent:",
            _table(SITE_HEAD, found.sites(names)),
        ]
    return ["## Privacy", *parts, "Metrics are not counted in epsilon."] if parts else []


def _choice(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return which sites were chosen for the run, if any were."""
    if not said:
        return {}
    names = ", ".join(map(str, said.get("sites") or ())) or "all"
    return {"Sites that were chosen": names, "Different sites that each round needs": said.get("least", 0)}


def _tested(row: RunRow) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.metrics.get("server") or row.metrics.get("evaluate") or {}
    return found


def participation(reports: Sequence[NodeReport]) -> list[tuple[str, int, int, int]]:
    """Return for each other site how many of its nodes trained, in how many rounds, and their faults in all phases."""
    of: dict[str, list[NodeReport]] = {}
    for report in reports:
        if site := site_of(report.name):
            of.setdefault(site, []).append(report)
    trained = {site: [one for one in own if one.phase == TRAIN and not one.fault] for site, own in of.items()}
    return [
        (
            site,
            len({one.name for one in trained[site]}),
            len({one.round for one in trained[site]}),
            sum(bool(one.fault) for one in own),
        )
        for site, own in sorted(of.items())
    ]


def _personal(said: Mapping[str, Any]) -> str:
    """Return which layers are not in the model, because each node has its own."""
    shares = f"{said['parameters']} of {said['all']} parameters"
    lines = ((f"`{name}`", _shape(shape)) for name, shape in said["arrays"].items())
    return f"Each node has its own ({said['kind']}): {shares}. They are not in this model.\n\n" + _table(
        ("Name", "Shape"), lines
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _faults(rows: Sequence[RunRow]) -> str:
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        for fault in row.faults:
            times, _ = found.get(fault.sentence, (0, 0))
            found[fault.sentence] = (times + 1, row.round)
    entries = ((sentence, times, last) for sentence, (times, last) in found.items())
    return _table(("Fault", "Times", "Last in round"), entries)


def _data(data: Mapping[str, Mapping[str, Any]]) -> str:
    if not data:
        return "The app did not ask the nodes about their data."
    names = sorted({name for said in data.values() for name in said})
    return _table(
        ("Node", *names), ((node, *(_plain(said.get(name, "")) for name in names)) for node, said in data.items())
    )


def _plain(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)])
