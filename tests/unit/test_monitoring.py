"""The files for Prometheus and Grafana, against the metrics that machines export. Prometheus reads them in tests/e2e."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from oneflower.cli import metrics as command
from oneflower.cloud.status import FederationStatus, VmStatus
from oneflower.monitoring import Limits, Target, write_files
from oneflower.monitoring.dashboards import federation_dashboard, node_dashboard
from oneflower.monitoring.rules import alert_rules
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.metrics import METRICS

TARGETS = [
    Target("link_0", "superlink", "127.20.0.2:9101"),
    Target("node_0", "supernode", "127.20.0.3:9101", dcgm=True),
]
OF_A_TARGET = {"federation", "role", "node", "instance", "job"}
QUERY = re.compile(r"\b(oneflower_\w+)(?:\{([^}]*)\})?")


def queries():
    """Every query of the rules and dashboards, with the name of what asks it."""
    for group in alert_rules(Limits())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for dashboard in (federation_dashboard(), node_dashboard()):
        for panel in dashboard["panels"]:
            yield from ((panel["title"], target["expr"]) for target in panel["targets"])
        for variable in dashboard["templating"]["list"][1:]:
            yield variable["name"], variable["query"]["query"]


def test_every_query_asks_for_metrics_and_labels_that_exist():
    asked = set()
    for what, query in queries():
        for name, selector in QUERY.findall(query):
            assert name in METRICS, f"{what} asks for {name}, which nobody exports"
            labels = set(re.findall(r"(\w+)\s*=~?", selector))
            assert labels <= OF_A_TARGET | set(METRICS[name].labels), f"{what} asks for a label of {name} that it lacks"
            asked.add(name)
    assert asked == set(METRICS), "a metric that no panel and no rule shows"


def test_every_legend_uses_labels_that_the_query_leaves():
    for dashboard in (federation_dashboard(), node_dashboard()):
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                [(name, _), *_] = QUERY.findall(target["expr"])
                left = re.findall(r"sum by \(([^)]*)\)", target["expr"])
                known = set(left[0].split(", ")) if left else OF_A_TARGET | set(METRICS[name].labels)
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, panel["title"]


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    for dashboard in (federation_dashboard(), node_dashboard()):
        taken = [
            (x, y)
            for at in (panel["gridPos"] for panel in dashboard["panels"])
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(taken) == len(set(taken))
        assert max(x for x, _ in taken) < 24
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_a_machine_cannot_give_itself_the_labels_of_another(tmp_path):
    write_files(tmp_path, "lab", TARGETS, Limits())
    configuration = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    for job in configuration["scrape_configs"]:
        assert job["honor_labels"] is False
        assert job["sample_limit"] > 0


def test_federations_share_a_folder(tmp_path):
    write_files(tmp_path, "lab", TARGETS, Limits())
    written = write_files(tmp_path, "other", TARGETS[:1], Limits(), "1s")
    assert sorted(written.files) == sorted(
        ["prometheus.yml", "oneflower.rules.yml", "targets/other.json", "dcgm/other.json"]
        + [f"grafana/{name}.json" for name in ("federation", "node")]
    )
    lab = json.loads((tmp_path / "targets" / "lab.json").read_text())
    assert lab[1] == {
        "targets": ["127.20.0.3:9101"],
        "labels": {"federation": "lab", "role": "supernode", "node": "node_0"},
    }
    assert [group["labels"]["node"] for group in json.loads((tmp_path / "dcgm" / "lab.json").read_text())] == ["node_0"]
    assert json.loads((tmp_path / "dcgm" / "other.json").read_text()) == []
    assert yaml.safe_load((tmp_path / "prometheus.yml").read_text())["global"]["scrape_interval"] == "1s"


def status(**settings):
    vms = (
        VmStatus(1, "link_0", "superlink", "ACTIVE", True, ip="10.0.0.1"),
        VmStatus(2, "n", "supernode", "ACTIVE", False),
    )
    return FederationStatus(1, "lab", "RUNNING", 1, vms=vms, settings=settings)


def test_the_targets_are_where_the_parameters_say(capsys):
    found = command.targets_of(status(FL_METRICS_ENABLED="YES", FL_METRICS_PORT="9200"))
    assert found == [Target("link_0", "superlink", "10.0.0.1:9200")]
    assert "FL_METRICS_ALLOWED names nobody" in capsys.readouterr().err
    command.targets_of(status(FL_METRICS_ENABLED="YES", FL_METRICS_ALLOWED="10.0.0.0/24"))
    assert capsys.readouterr().err == ""


def test_a_federation_without_metrics_is_refused():
    with pytest.raises(
        OneflowerError, match="The machines of lab have no metrics: FL_METRICS_ENABLED is NO"
    ) as refused:
        command.targets_of(status())
    assert refused.value.code is ExitCode.CONFLICT


def test_a_duration_that_is_none_is_a_usage_error():
    for wrong in ("0s", "soon", "15", "1h30m", "-1s"):
        with pytest.raises(OneflowerError, match="--lost is '.*'; expected a number and one of s, m, h, d"):
            command.render("lab", lost=wrong)
