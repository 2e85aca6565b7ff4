"""The two Grafana dashboards: of a federation, and of its machines. Both let choose the data source and federation."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from oneflower_appliance import metrics as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower_appliance.metrics import Metric

_SCHEMA = 38  # of Grafana 10; newer ones read it
_WIDTH = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_FEDERATION = 'federation="$federation"'
_MACHINE = f'{_FEDERATION}, node=~"$node"'


@dataclass(frozen=True)
class Panel:
    """A graph, or a number, of the results of `queries`: pairs of a query and the legend of its lines."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 12
    height: int = 8
    kind: str = "timeseries"
    options: dict[str, Any] = field(default_factory=dict)


def federation_dashboard() -> dict[str, Any]:
    """Return the dashboard of a federation: its run, its nodes and what its machines are doing."""

    def of(metric: Metric, more: str = "") -> str:
        return f"{metric.name}{{{_FEDERATION}{more}}}"

    a_round = f"/ on (federation) group_left {_rate(of(m.ROUNDS_DONE))}"

    panels = [
        _number("Round", of(m.ROUND)),
        _number("of rounds", of(m.ROUNDS)),
        _number("Accuracy", of(m.ACCURACY), "percentunit"),
        _number("SuperNodes online", of(m.NODES_NOW, ', state="online"')),
        _number("of SuperNodes", of(m.NODES_EXPECTED)),
        _number("Seconds since the last round", f"time() - {of(m.PROGRESS)} and {of(m.RUN_ACTIVE)} == 1", "s"),
        Panel("Loss", ((of(m.LOSS), "loss"), (of(m.TRAIN_LOSS), "on the nodes, while they trained"))),
        Panel("Accuracy", ((of(m.ACCURACY), "accuracy"),), "percentunit"),
        Panel("Seconds for a round", ((f"{_rate(of(m.ROUND_SECONDS))} / {_rate(of(m.ROUNDS_DONE))}", "seconds"),), "s"),
        Panel("Seconds by phase", ((f"{_rate(of(m.PHASE_SECONDS))} {a_round}", "{{phase}}"),), "s"),
        Panel("Tasks of nodes", ((_rate(of(m.NODE_TASKS)), "{{phase}}, a second"),)),
        Panel("Nodes of a round", ((of(m.RUN_NODES), "trained"), (of(m.NODES_EXPECTED), "expected"))),
        Panel("SuperNodes by state", ((of(m.NODES_NOW), "{{state}}"), (of(m.NODES_REFUSED), "refused"))),
        Panel("Faults of nodes", ((f"sum by (phase, kind) (increase({of(m.FAULTS)}[$__rate_interval]))",
                                   "{{kind}} in {{phase}}"),)),
        Panel("Nodes of other sites that are online", ((of(m.SITE_ONLINE), "{{name}}"),)),
        Panel("Tasks of sites", ((_rate(of(m.SITE_TASKS)), "{{site}} {{phase}}, a second"),)),
        Panel("Faults of sites", ((f"sum by (site, phase) (increase({of(m.SITE_FAULTS)}[$__rate_interval]))",
                                   "{{site}} in {{phase}}"),)),
        Panel("Runs by state", ((of(m.RUNS), "{{state}}"),)),
        Panel("Bytes between the SuperLink and its nodes", (
            (_rate(of(m.FLEET_RECEIVED)), "from nodes"),
            (_rate(of(m.FLEET_SENT)), "to nodes")), "Bps"),
        Panel("Tasks that are running", ((of(m.TASKS), "{{node}}"),)),
        Panel("Machines that are ready", ((of(m.READY), "{{node}}"),)),
        Panel("Days until certificates expire", ((f"({of(m.EXPIRY)} - time()) / 86400", "{{certificate}}"),), "d"),
        Panel("SuperNodes that the SuperLink hears", ((of(m.ONLINE), "{{node}}"),)),
    ]  # fmt: skip
    return _dashboard("oneflower-federation", "oneflower: federation", panels, [])


def node_dashboard() -> dict[str, Any]:
    """Return the dashboard of a machine: its processes, memory, disks, network, clock and GPUs."""

    def of(metric: Metric, more: str = "") -> str:
        return f"{metric.name}{{{_MACHINE}{more}}}"

    panels = [
        _number("Ready", of(m.READY)),
        _number("Flower is up", of(m.FLOWER_UP)),
        _number("Tasks running", of(m.TASKS)),
        _number("Flower was started again", of(m.RESTARTS)),
        _number("The clock is off by", f"{of(m.TIME)} - timestamp({of(m.TIME)})", "s"),
        _number("Release", of(m.BUILD), text="{{version}}, Flower {{flower_version}}"),
        Panel("Processor", ((_rate(of(m.CPU)), "{{node}} {{process}}"),), "percentunit"),
        Panel("Memory of processes", ((of(m.RESIDENT), "{{node}} {{process}}"),), "bytes"),
        Panel("Memory of the machine", ((of(m.MEMORY_FREE), "{{node}} available"), (of(m.MEMORY), "{{node}} size")),
              "bytes"),
        Panel("Disks", ((of(m.DISK_FREE), "{{node}} {{disk}} free"), (of(m.DISK), "{{node}} {{disk}} size")), "bytes"),
        Panel("Network", ((_rate(of(m.RECEIVED)), "{{node}} received"),
                          (_rate(of(m.SENT)), "{{node}} sent")), "Bps"),
        Panel("GPU", ((of(m.GPU_USE), "{{node}} GPU {{gpu}}"),), "percentunit"),
        Panel("Memory of the GPU", ((of(m.GPU_USED), "{{node}} GPU {{gpu}} used"),
                                    (of(m.GPU_MEMORY), "{{node}} GPU {{gpu}} size")), "bytes"),
        Panel("Temperature of the GPU", ((of(m.GPU_HEAT), "{{node}} GPU {{gpu}}"),), "celsius"),
    ]  # fmt: skip
    node = _variable("node", f"label_values({m.BUILD.name}{{{_FEDERATION}}}, node)", several=True)
    return _dashboard("oneflower-node", "oneflower: node", panels, [node])


def _rate(query: str) -> str:
    return f"rate({query}[$__rate_interval])"


def _number(title: str, query: str, unit: str = "short", text: str = "") -> Panel:
    options = {"textMode": "name"} if text else {}
    return Panel(title, ((query, text),), unit, 4, 4, "stat", options)


def _dashboard(name: str, title: str, panels: Iterable[Panel], variables: list[dict[str, Any]]) -> dict[str, Any]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    federation = _variable("federation", f"label_values({m.BUILD.name}, federation)")
    return {
        "uid": name,
        "title": title,
        "tags": ["oneflower"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [source, federation, *variables]},
        "panels": _placed(panels),
    }


def _variable(name: str, query: str, *, several: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes, so that new machines appear
        "multi": several,
        "includeAll": several,
        "sort": 1,
    }


def _placed(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Return the panels one after the other, as many in a row as fit."""
    found, x, y, row = [], 0, 0, 0
    for number, panel in zip(count(1), panels, strict=False):
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        found.append({
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "options": panel.options,
            "targets": [
                {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
                for place, (query, legend) in enumerate(panel.queries)
            ],
        })  # fmt: skip
        x, row = x + panel.width, max(row, panel.height)
    return found
