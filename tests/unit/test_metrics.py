"""The metrics: what a machine measures, what the exporter gives, and to whom. Real Prometheus is in tests/e2e."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oneflower_appliance import metrics
from oneflower_appliance.agent.journal import Journal, Step
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.metrics import exporter as exporters
from oneflower_appliance.agent.metrics.dcgm import Dcgm
from oneflower_appliance.agent.metrics.exporter import Exporter
from oneflower_appliance.agent.metrics.gpu import GpuMetrics
from oneflower_appliance.agent.metrics.machine import MachineMetrics
from oneflower_appliance.agent.metrics.sites import nodes_online
from oneflower_appliance.agent.metrics.superlink import Rounds, SuperLinkMetrics
from oneflower_appliance.agent.metrics.supernode import supernode_measures
from oneflower_appliance.agent.superlink import SuperLink
from oneflower_appliance.agent.supernode import SuperNode
from oneflower_appliance.joining import Standing
from oneflower_appliance.node_reports import NodeReport, file_name, write_line
from oneflower_appliance.node_state import NodeState
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.run_folder import METRICS, ORIGIN, Origin
from oneflower_appliance.run_state import RunState
from oneflower_appliance.settings import resolve
from oneflower_appliance.sites import Site, SiteNode, Sites

ADDRESS = "127.77.0.6"
ON = {"FL_METRICS_ENABLED": "YES"}


def make_machine(folder, role=COORDINATOR, address=ADDRESS, **given):
    settings = resolve({**ON, "FL_METRICS_PORT": str(free_port()), **given})
    return Machine(folder, {"ETH0_IP": address}, settings, Journal(role, folder / "status.json"), None)


def free_port():
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


@contextmanager
def exported(machine, *measures):
    role = SimpleNamespace(name=COORDINATOR, child=None, measures=lambda: measures)
    exporter = Exporter(machine, role)
    try:
        exporter.look()
        yield exporter
    finally:
        exporter.close()


def ask(exporter, path="/metrics", source="127.0.0.1", method="GET", **headers):
    """Return status and text, or None if the connection was closed."""
    connection = http.client.HTTPConnection(*exporter.address, timeout=5, source_address=(source, 0))
    with closing(connection):
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (ConnectionError, http.client.BadStatusLine):
            return None


def values(readings):
    return {(reading.metric.name, *reading.labels): reading.value for reading in readings}


def test_prometheus_reads_what_is_measured(tmp_path):
    machine = make_machine(tmp_path)
    machine.journal.run([Step("start", lambda: "started")])
    with exported(machine) as exporter:
        status, text = ask(exporter)
    assert status == 200
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["oneflower_ready"].samples[0].value == 1
    assert found["oneflower_flower_up"].samples[0].value == 0
    assert found["oneflower_flower_restarts"].type == "counter"
    assert abs(found["oneflower_time_seconds"].samples[0].value - time.time()) < 60


def test_without_the_parameter_only_programs_on_the_machine_can_connect(tmp_path):
    machine = make_machine(tmp_path, address="192.0.2.7")
    assert Exporter(machine, SimpleNamespace(name=COORDINATOR, measures=tuple)).address[0] == "127.0.0.1"


def test_with_it_only_those_networks_are_answered(tmp_path):
    with exported(make_machine(tmp_path, FL_METRICS_ALLOWED="127.7.0.0/16, 127.8.0.1")) as exporter:
        assert exporter.address[0] == ADDRESS
        for friend in ("127.7.3.4", "127.8.0.1", ADDRESS):
            assert ask(exporter, source=friend)[0] == 200
        for stranger in ("127.0.0.1", "127.8.0.2", "127.6.255.255"):
            assert ask(exporter, source=stranger) is None


def test_there_is_nothing_else_at_the_port(tmp_path):
    with exported(make_machine(tmp_path)) as exporter:
        for path in ("/", "/metrics/../status.json", "//etc/passwd", "/dcgm"):
            assert ask(exporter, path)[0] == 404
        assert ask(exporter, method="POST")[0] == 501
        assert ask(exporter, method="DELETE")[0] == 501


def test_a_web_page_cannot_read_what_is_for_programs_on_the_machine(tmp_path):
    with exported(make_machine(tmp_path)) as exporter:
        assert ask(exporter, Host="evil.example")[0] == 403
        assert ask(exporter, Host=f"evil.example:{exporter.address[1]}")[0] == 403
        assert ask(exporter, Host="localhost:1")[0] == 200


def test_those_who_send_nothing_cannot_pile_up(tmp_path):
    with exported(make_machine(tmp_path)) as exporter:
        silent = [socket.create_connection(exporter.address, timeout=5) for _ in range(4)]
        assert ask(exporter) is None  # there is no place, and it does not wait for one
        for each in silent:
            each.close()
        deadline = time.monotonic() + 5
        while ask(exporter) is None:
            assert time.monotonic() < deadline


def test_who_does_not_finish_a_request_is_hung_up_on(tmp_path, monkeypatch):
    monkeypatch.setattr(exporters, "_PATIENCE", 0.05)
    with (
        exported(make_machine(tmp_path)) as exporter,
        socket.create_connection(exporter.address, timeout=5) as slow,
    ):
        slow.sendall(b"GET /met")
        assert slow.recv(1) == b""


def test_asking_often_does_not_measure_more_often(tmp_path):
    measured = []

    def measure():
        measured.append(1)
        yield metrics.ONLINE.is_(len(measured))

    with exported(make_machine(tmp_path), measure) as exporter:
        assert len({ask(exporter)[1] for _ in range(5)}) == 1
    assert measured == [1]


def test_what_cannot_be_measured_takes_nothing_else_away(tmp_path):
    def fails():
        yield metrics.ONLINE.is_(1)
        raise OSError("Flower does not answer")

    with exported(make_machine(tmp_path), fails, lambda: iter([metrics.RUN_ACTIVE.is_(1)])) as exporter:
        status, text = ask(exporter)
    assert status == 200
    assert "oneflower_run_active 1.0" in text
    assert "does not answer" not in text


def test_a_port_that_is_taken_is_said_and_tried_again(tmp_path):
    machine = make_machine(tmp_path)
    machine.journal.run([Step("start", lambda: "started")])
    with exported(machine) as first, exported(machine) as second:
        [cause] = machine.journal.status.causes
        assert cause.startswith(f"The metrics cannot be read: nothing can listen on {ADDRESS}:")
        assert "Set FL_METRICS_PORT to another port" in cause
        first.close()
        second.look()
        assert machine.journal.status.causes == []
        assert ask(second)[0] == 200


def test_switched_off_it_is_not_even_imported():
    """The agent imports it where it is switched on, inside functions; nothing else imports these two packages."""
    agent = Path(metrics.__file__).parent / "agent"
    for path in agent.parent.rglob("*.py"):
        if path.parent != agent / "metrics":
            source = path.read_text()
            assert not re.search(r"^ *(from|import) (prometheus_client|pynvml)", source, re.MULTILINE), path
            assert not re.search(r"^from oneflower_appliance\.agent\.metrics", source, re.MULTILINE), path
    assert "        from oneflower_appliance.agent.metrics.exporter" in (agent / "agent.py").read_text()


def process(folder, pid, parent, name, *, cpu=0, ended=0, pages=1):
    words = ["S", parent, *[0] * 9, cpu, 0, ended, 0, *[0] * 6, pages, *[0] * 28]
    (folder / str(pid)).mkdir(exist_ok=True)
    (folder / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, words))}\n")


@pytest.fixture
def proc(tmp_path):
    folder = tmp_path / "proc"
    (folder / "net").mkdir(parents=True)
    (folder / "meminfo").write_text("MemTotal: 2048 kB\nMemAvailable: 1024 kB\nHugePages_Total: 0\n")
    (folder / "net" / "dev").write_text(
        "Inter-| x\n face | y\n    lo: 1 0 0 0 0 0 0 0 2\n  eth0: 30 0 0 0 0 0 0 0 40\n"
    )
    process(folder, os.getpid(), 1, "oneflower-agent", cpu=50)
    process(folder, 200, os.getpid(), "python) (x", cpu=100, ended=300)
    process(folder, 201, 200, "flower-superexec", cpu=50)
    process(folder, 202, 201, "flwr-clientapp", cpu=7, ended=9, pages=5)
    process(folder, 300, 1, "flwr-clientapp", cpu=1000)  # of another machine on this host
    return folder


def test_a_machine_measures_its_own_processes(tmp_path, proc):
    child = SimpleNamespace(pid=200, ended=threading.Event())
    measured = MachineMetrics(make_machine(tmp_path), NODES, lambda: child, proc)
    found = values(measured.measure())
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert found["oneflower_tasks_running",] == 1
    assert found["oneflower_cpu_seconds_total", "flower"] == (100 + 300 + 50 + 7) / tick
    assert found["oneflower_resident_memory_bytes", "tasks"] == 5 * page
    assert found["oneflower_resident_memory_bytes", "flower"] == 2 * page
    assert found["oneflower_memory_available_bytes",] == 1 << 20
    assert ("oneflower_network_sent_bytes_total",) not in found  # it shares the cards with all others

    (proc / "202" / "stat").unlink()  # killed, and not waited for yet
    assert values(measured.measure())["oneflower_cpu_seconds_total", "flower"] == (100 + 300 + 50 + 7) / tick
    child.ended.set()
    ended = values(measured.measure())
    assert (ended["oneflower_flower_up",], ended["oneflower_cpu_seconds_total", "flower"]) == (0, 0)

    virtual = MachineMetrics(make_machine(tmp_path, address="192.0.2.7"), NODES, lambda: None, proc)
    assert values(virtual.measure())["oneflower_network_received_bytes_total",] == 30
    assert values(virtual.measure())["oneflower_network_sent_bytes_total",] == 40


def row(number, rounds=3, **more):
    known = {"round": number, "rounds": rounds, "seconds": 2.5, "nodes": 2, "failures": 0, "evaluate": {"loss": 0.5}}
    return json.dumps(known | more)


def write_rows(runs, run, *rows, resumes=""):
    (runs / run).mkdir(parents=True, exist_ok=True)
    if resumes:
        (runs / run / ORIGIN).write_text(Origin(resumes, resumes, 2).text)
    (runs / run / METRICS).write_text("\n".join(rows) + "\n")
    os.utime(runs / run / METRICS, ns=(time.monotonic_ns(), time.monotonic_ns()))


def test_rounds_are_counted_once(tmp_path):
    write_rows(tmp_path, "1", row(1), row(2))
    rounds = Rounds(tmp_path)

    def count(*runs):
        rounds.look([RunState(run, "a/b", "running") for run in runs])
        return values(rounds.readings(runs[-1]))

    assert count("1")["oneflower_rounds_total",] == 0  # from before this agent
    reports = [NodeReport(3, "1", "train", seconds=0.5), NodeReport(3, "2", "train", seconds=1.25)]
    reports += [NodeReport(3, "1", "evaluate", seconds=0.25), NodeReport(3, "2", "evaluate", fault="failed", seconds=9)]
    (tmp_path / "1" / file_name(1)).write_text(write_line(3, reports, withheld=False) + "\n")
    write_rows(tmp_path, "1", row(1), row(2), row(3, faults=[fault("failed"), fault("left out"), fault("x" * 99)]))
    found = count("1")
    assert found["oneflower_rounds_total",] == 1
    assert found["oneflower_round_seconds_total",] == 2.5
    assert found["oneflower_node_faults_total", "train", "left_out"] == 1
    assert found["oneflower_run_round",] == 3
    phases = [found["oneflower_phase_seconds_total", phase] for phase in ("train", "evaluate", "other")]
    assert phases == [1.25, 0.25, 1.0]
    assert [found["oneflower_node_tasks_total", phase] for phase in ("train", "evaluate")] == [2, 1]
    write_rows(tmp_path, "2", row(1), row(2), row(3), row(4, evaluate={"accuracy": 0.75}), resumes="1")
    found = count("1", "2")
    assert found["oneflower_rounds_total",] == 2
    assert found["oneflower_run_accuracy",] == 0.75
    assert ("oneflower_run_loss",) not in found  # it is not known, which is not the same as 0
    assert sum(name == "oneflower_node_faults_total" for name, *_ in found) == 8  # whatever a row says
    write_rows(tmp_path, "2", row(1), row(2), row(3), row(4), "{", row(6), resumes="1")
    assert count("1", "2")["oneflower_rounds_total",] == 3, "a line that is damaged is left out"
    before = count("2")["oneflower_rounds_total",]
    assert count("3")["oneflower_rounds_total",] == before  # a run without a row, and older ones are gone
    assert count("3")["oneflower_run_round",] == 0


def write_sites(folder, nodes):
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: Site(name, 1, 1, "", "", 0.0, nodes=(SiteNode(0, f"key {name}", "", Standing.APPROVED, node),))
        for name, node in nodes.items()
    }
    Sites(found).save(folder)


def test_what_sites_did_is_counted_and_never_under_too_many_names(tmp_path):
    write_sites(tmp_path, {f"s{number:03}": str(number) for number in range(120)})
    rounds = Rounds(tmp_path / "runs")
    reports = [NodeReport(1, "0", "train", seconds=0.5), NodeReport(1, "0", "evaluate", fault="failed")]
    reports += [NodeReport(1, str(number), "train", seconds=0.5) for number in (110, 111, 999)]
    write_rows(tmp_path / "runs", "1", row(1))
    (tmp_path / "runs" / "1" / file_name(1)).write_text(write_line(1, reports, withheld=False) + "\n")
    rounds.look([RunState("1", "a/b", "running")])
    found = values(rounds.readings("1"))
    assert found["oneflower_site_tasks_total", "s000", "train"] == 1
    assert found["oneflower_site_faults_total", "s000", "evaluate"] == 1
    assert found["oneflower_site_tasks_total", "others", "train"] == 2
    assert len({labels[0] for name, *labels in found if name == "oneflower_site_tasks_total"}) == 101
    nodes = [NodeState(str(number), "online", f"s{number}/0") for number in range(120)]
    assert len(list(nodes_online(nodes))) == 101


def test_files_of_runs_that_cannot_be_read_do_not_keep_an_agent_from_starting(tmp_path):
    for name, content in (
        (METRICS, "{"),
        (METRICS, "{}"),
        (METRICS, "7"),
        (ORIGIN, "{"),
        (ORIGIN, "{}"),
        (ORIGIN, "7"),
    ):
        run = tmp_path / f"{name}-{len(content)}-{content[0]}"
        run.mkdir()
        (run / name).write_text(content)
    rounds = Rounds(tmp_path)
    rounds.look([RunState(folder.name, "a/b", "running") for folder in tmp_path.iterdir()])
    assert values(rounds.readings(""))["oneflower_rounds_total",] == 0


def fault(kind):
    return {"node": "17", "phase": "train", "kind": kind, "reason": "the password is 1234"}


class Api:
    """A SuperLink's API."""

    def nodes(self):
        return [
            NodeState("1", "online"),
            NodeState("2", "online", "north/0"),
            NodeState("3", "unregistered", "north/1"),
        ]

    def traffic(self):
        return 12, 34


def superlink_measures(runs):
    duties = SimpleNamespace(
        expected=3, refused=1, runs=[RunState("5", "tenant/secret", "finished", "failed", "a key")]
    )
    ends = SimpleNamespace(ca=time_at(9), server=time_at(8))
    write_sites(runs.parent, {"north": "2"})
    return SuperLinkMetrics(lambda _: Api(), lambda: duties, lambda: SimpleNamespace(ends=ends), runs).measures


def time_at(seconds):
    return SimpleNamespace(timestamp=lambda: seconds)


def test_no_name_and_no_reason_of_a_run_is_in_the_metrics(tmp_path):
    write_rows(tmp_path / "runs", "5", row(1, faults=[fault("failed")], server={"loss": 0.5, "my accuracy": 1}))
    with exported(make_machine(tmp_path), *superlink_measures(tmp_path / "runs")) as exporter:
        _, text = ask(exporter)
    assert 'oneflower_nodes{state="online"} 2.0' in text
    assert 'oneflower_runs{state="failed"} 1.0' in text
    for secret in ("tenant", "secret", "password", "a key", "17", str(tmp_path), ADDRESS):
        assert secret not in "".join(
            line for line in text.splitlines() if "_seconds" not in line and "bytes" not in line
        )


class Gpu:
    """NVIDIA's binding, with two GPUs, of which the second does not tell its use."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.opened = 0

    def nvmlInit(self):  # noqa: N802 - NVIDIA's name
        self.opened += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _):  # noqa: N802
        return SimpleNamespace(used=1 << 30, total=4 << 30)

    def nvmlDeviceGetUtilizationRates(self, device):  # noqa: N802
        if device:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=42)

    def nvmlDeviceGetTemperature(self, _, sensor):  # noqa: N802
        return 55 + sensor


def test_gpus_are_measured_where_there_are_some(tmp_path):
    gpu, loaded = Gpu(), []
    assert list(GpuMetrics(tmp_path, loaded.append).measure()) == []
    assert loaded == []
    (tmp_path / "nvidia0").touch()
    measured = GpuMetrics(tmp_path, lambda name: loaded.append(name) or gpu)
    values(measured.measure())
    found = values(measured.measure())
    assert (loaded, gpu.opened) == (["pynvml"], 1)
    assert found["oneflower_gpu_utilization_ratio", "0"] == 0.42
    assert ("oneflower_gpu_utilization_ratio", "1") not in found
    assert found["oneflower_gpu_memory_size_bytes", "1"] == 4 << 30
    assert found["oneflower_gpu_temperature_celsius", "1"] == 55


def test_the_binding_has_the_names_that_are_called():
    import pynvml

    names = [name for name in vars(Gpu) if name.startswith(("nvml", "NVML"))]
    assert len(names) == 8
    assert [name for name in names if not hasattr(pynvml, name)] == []


def test_every_metric_is_measured_by_the_roles_that_it_names(tmp_path, proc):
    write_rows(tmp_path / "runs", "5", row(1, evaluate={"loss": 1, "accuracy": 1}, train={"loss": 2}))
    (tmp_path / "nvidia0").touch()
    gpus = GpuMetrics(tmp_path, lambda _: Gpu()).measure
    own = MachineMetrics(make_machine(tmp_path, address="192.0.2.7"), NODES, lambda: None, proc).measure
    plain = supernode_measures(resolve({}), lambda: True)
    assert len(plain) == 1
    for role, measures in ((COORDINATOR, superlink_measures(tmp_path / "runs")), (NODES, (*plain, gpus))):
        found = {reading.metric.name: reading for measure in (own, *measures) for reading in measure()}
        assert sorted(found) == sorted(name for name, metric in metrics.METRICS.items() if role in metric.roles)
        assert all(len(reading.labels) == len(reading.metric.labels) for reading in found.values())


def test_a_role_that_has_not_begun_measures_nothing(tmp_path):
    link, node = SuperLink(make_machine(tmp_path)), SuperNode(make_machine(tmp_path, NODES))
    assert values(reading for measure in link.measures() for reading in measure()) == {}
    assert values(reading for measure in node.measures() for reading in measure()) == {("oneflower_node_online",): 0}


class Theirs(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"DCGM_FI_DEV_GPU_UTIL 3\n")

    def log_message(self, *_):
        pass


GPU = {"FL_GPU_ENABLED": "YES", "FL_DCGM_ENABLED": "YES"}


def test_an_exporter_of_dcgm_that_runs_is_handed_on(tmp_path):
    machine = make_machine(tmp_path, address="127.77.0.8", **GPU)
    with http.server.ThreadingHTTPServer(("127.77.0.8", metrics.DCGM_PORT), Theirs) as theirs:
        threading.Thread(target=theirs.serve_forever, args=(0.01,), daemon=True).start()
        with exported(machine) as exporter:
            assert ask(exporter, "/dcgm") == (200, "DCGM_FI_DEV_GPU_UTIL 3\n")
            theirs.shutdown()
            theirs.server_close()
            assert ask(exporter, "/dcgm")[0] == 503
            assert ask(exporter)[0] == 200


def test_it_is_started_on_loopback_if_it_is_installed_and_a_sentence_if_not(tmp_path):
    machine = make_machine(tmp_path, address="127.77.0.7", **GPU)
    machine.journal.run([Step("start", lambda: "started")])
    Dcgm(machine, lambda _: None).look()
    [cause] = machine.journal.status.causes
    assert cause.startswith("FL_DCGM_ENABLED is YES, and dcgm-exporter is not installed")
    program, asked = tmp_path / "dcgm-exporter", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" > {asked}.new && mv {asked}.new {asked}\nexec sleep 60\n')
    program.chmod(0o755)
    dcgm = Dcgm(machine, lambda _: str(program))
    try:
        dcgm.look()
        assert machine.journal.status.causes == []
        deadline = time.monotonic() + 10
        while not asked.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert asked.read_text() == "--address 127.77.0.7:9400\n"
    finally:
        dcgm.close()
