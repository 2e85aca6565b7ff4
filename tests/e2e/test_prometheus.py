"""A real Prometheus reads the files that `oneflower metrics render` writes, and a real federation's metrics."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess

import httpx
import pytest
import yaml

from oneflower.local import daemon
from oneflower.monitoring import Limits, write_files
from oneflower.monitoring.dashboards import federation_dashboard, node_dashboard
from oneflower.monitoring.rules import alert_rules
from oneflower_appliance.runs import RunRow

from .conftest import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's package prometheus"),
]

ADDRESS = "127.77.0.5"
OF_LINK = '{federation="lab", role="superlink", node="link"}'
OF_NODE = '{federation="lab", role="supernode", node="node_0"}'


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series(name, values, labels=OF_LINK):
    """Return values of a metric, one a minute, in the notation of promtool."""
    more = f"{labels[:-1]}, {name.partition('{')[2]}" if "{" in name else labels
    return {"series": name.partition("{")[0] + more, "values": values}


# What is seen, when it is looked at, and the alerts that there are then.
SITUATIONS = [
    ("all is well", "60m", set(), [
        series('up{job="oneflower"}', "1x60"), series("oneflower_ready", "1x60"),
        series('oneflower_nodes{state="online"}', "2x60"), series("oneflower_nodes_expected", "2x60"),
        series("oneflower_run_active", "1x60"), series("oneflower_run_progress_timestamp_seconds", "0+60x60"),
        series("oneflower_time_seconds", "0+60x60"), series("oneflower_flower_restarts_total", "1x60"),
        series('oneflower_runs{state="failed"}', "1x60"), series("oneflower_nodes_refused", "0x60"),
        series('oneflower_node_faults_total{phase="train", kind="failed"}', "3x60"),
        series('oneflower_disk_free_bytes{disk="state"}', "20x60"),
        series('oneflower_disk_size_bytes{disk="state"}', "100x60"),
        series('oneflower_certificate_expiry_timestamp_seconds{certificate="ca"}', "9999999x60"),
    ]),
    ("a machine is down", "5m", {"OneflowerMachineDown"}, [series('up{job="oneflower"}', "1 1 0x10", OF_NODE)]),
    ("a machine is down for a moment", "2m", set(), [series('up{job="oneflower"}', "1 1 0 1x9", OF_NODE)]),
    ("a node is lost", "5m", {"OneflowerNodeLost"}, [
        series('oneflower_nodes{state="online"}', "2 2 1x10"), series("oneflower_nodes_expected", "2x20"),
    ]),
    ("not ready", "5m", {"OneflowerNotReady"}, [series("oneflower_ready", "1 1 0x20", OF_NODE)]),
    ("Flower dies again and again", "20m", {"OneflowerRestarts"}, [
        series("oneflower_flower_restarts_total", "0+1x20", OF_NODE),
    ]),
    ("a run stands still", "70m", {"OneflowerNoProgress"}, [
        series("oneflower_run_active", "1x80"), series("oneflower_run_progress_timestamp_seconds", "60x80"),
    ]),
    ("a run has ended long ago", "70m", set(), [
        series("oneflower_run_active", "0x80"), series("oneflower_run_progress_timestamp_seconds", "60x80"),
    ]),
    ("a run fails", "8m", {"OneflowerRunFailed"}, [series('oneflower_runs{state="failed"}', "0x5 1x5")]),
    ("nodes fail", "8m", {"OneflowerNodeFaults"}, [
        series('oneflower_node_faults_total{phase="train", kind="no_answer"}', "0x5 1x5"),
    ]),
    ("a machine may not join", "5m", {"OneflowerNodesRefused"}, [series("oneflower_nodes_refused", "1x9")]),
    ("a certificate expires in 13 days", "5m", {"OneflowerCertificateExpires"}, [
        series('oneflower_certificate_expiry_timestamp_seconds{certificate="server"}', f"{13 * 86400}x9"),
    ]),
    ("a disk is nearly full", "5m", {"OneflowerDiskFull"}, [
        series('oneflower_disk_free_bytes{disk="state"}', "9x9", OF_NODE),
        series('oneflower_disk_size_bytes{disk="state"}', "100x9", OF_NODE),
    ]),
    ("a clock is slow", "5m", {"OneflowerClockWrong"}, [series("oneflower_time_seconds", "-6+60x9", OF_NODE)]),
]  # fmt: skip


def test_each_alert_fires_when_it_should_and_not_before(tmp_path):
    """All alerts in one call of promtool, which costs less than a second: nothing else tells whether a rule is right."""
    write_files(tmp_path, "lab", [], Limits())
    names = {rule["alert"] for group in alert_rules(Limits())["groups"] for rule in group["rules"]}
    assert set().union(*(expected for _, _, expected, _ in SITUATIONS)) == names
    tests = [
        {
            "name": what,
            "interval": "1m",
            "input_series": seen,
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": when,
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected],
                }
            ],
        }
        for what, when, expected, seen in SITUATIONS
    ]
    file = {"rule_files": ["oneflower.rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(file))
    promtool("test", "rules", tmp_path / "tests.yml")
    promtool("check", "config", tmp_path / "prometheus.yml")


class Prometheus:
    """A Prometheus with the files of a folder."""

    def __init__(self, folder, data):
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            address = f"{ADDRESS}:{probe.getsockname()[1]}"
        self._client = httpx.Client(base_url=f"http://{address}", trust_env=False)
        with (data.parent / "prometheus.log").open("w") as log:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={data}",
                 f"--web.listen-address={address}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        until(self.is_ready, 30, "Prometheus")

    def is_ready(self):
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, query):
        """Return the values that a query has now, by their labels."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return [(found["metric"], float(found["value"][1])) for found in answer["data"]["result"]]

    def one(self, query):
        return next((value for _, value in self.ask(query)), None)

    def firing(self, alert):
        return [labels["node"] for labels, _ in self.ask(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')]

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        self._client.close()


# There is no GPU here, no run any more, no other site, and machines of the local cloud have no network cards.
NOT_HERE = {
    "Seconds since the last round", "Network", "GPU", "Memory of the GPU", "Temperature of the GPU",
    "Nodes of other sites that are online", "Tasks of sites", "Faults of sites",
}  # fmt: skip


def test_prometheus_sees_a_federation_train_and_says_when_a_node_is_killed(user, fed, tmp_path):
    """Less than a minute, on the federation of the other tests: nothing else shows that all parts fit together."""
    user("metrics", "render", fed, "--save", "watch", "--interval", "1s", "--lost", "1s")
    folder = user.folder / "watch"
    promtool("check", "config", folder / "prometheus.yml")
    link, node, _ = user.show(fed)["vms"]
    promtool("check", "metrics", text=httpx.get(f"http://{link['ip']}:9101/metrics", trust_env=False).text)
    prometheus = Prometheus(folder, tmp_path / "data")
    try:
        until(lambda: prometheus.one("count(up == 1)") == 3, 20, "three machines up")
        assert until(lambda: prometheus.one("oneflower_nodes_expected"), 20) == 2
        before = until(lambda: prometheus.ask("oneflower_rounds_total"), 20)[0][1]
        user("run", "image-classification", "--federation", fed)
        until(lambda: prometheus.one("oneflower_rounds_total") == before + 2, 20, "both rounds")
        results = user.folder.glob(f"oneflower-results/{fed}-*/metrics.json")
        newest = json.loads(max(results, key=lambda path: path.stat().st_mtime).read_text())
        accuracy = RunRow.parse(json.dumps(newest["rows"][-1])).accuracy
        assert prometheus.one("oneflower_run_accuracy") == pytest.approx(accuracy)
        assert prometheus.one("oneflower_fleet_sent_bytes_total") > 10_000
        assert prometheus.one('oneflower_nodes{state="online"}') == 2

        def nothing_in():
            dashboards = (federation_dashboard(), node_dashboard())
            return {name for dashboard in dashboards for name in empty(prometheus, dashboard, fed)}

        until(lambda: nothing_in() == NOT_HERE, 20, "what is asked of a run that has ended")

        init = user.process(node["id"], "init.py")
        host = daemon.find(user.home).pid
        os.kill(host, signal.SIGSTOP)  # or it would boot the machine again, at once
        try:
            os.kill(init.pid, signal.SIGKILL)
            until(lambda: prometheus.firing("OneflowerMachineDown") == [node["name"]], 30, "the alert")
        finally:
            os.kill(host, signal.SIGCONT)
        until(lambda: user.is_ready(fed), 60, "the recovery")
        until(lambda: not prometheus.firing("OneflowerMachineDown"), 20, "the end of the alert")
    finally:
        prometheus.close()


def empty(prometheus, dashboard, federation):
    """Return the titles of the panels of which no query has a value."""
    variables = {"$__rate_interval": "1m", "$federation": federation, "$node": ".*"}
    for panel in dashboard["panels"]:
        found = []
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            found += prometheus.ask(query)
        if not found:
            yield panel["title"]
