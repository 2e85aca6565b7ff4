"""The agent as a whole, in its own process, against a OneGate that misbehaves. Flower itself is started by e2e tests."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from oneflower.opennebula.text import context_sh
from oneflower_appliance.agent import agent as module
from oneflower_appliance.agent import reporting, supernode, tls
from oneflower_appliance.agent.last_error import LastError
from oneflower_appliance.agent.logs import AgentLog
from oneflower_appliance.agent.onegate import OneGate, OneGateError
from oneflower_appliance.agent.wording import no_such_vm
from oneflower_appliance.context import read_token
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import FLEET_PORT

from . import forked

AGENT = "oneflower_appliance.agent.agent"
ADDRESS = "127.77.0.9"
HASH = f"--hash=sha256:{'1' * 64}"
INSTALLED = importlib.metadata.version("flwr")


class Gate(http.server.BaseHTTPRequestHandler):
    """OneGate, as one test wants it: `answers` maps a path to (status, body), and what is PUT is kept."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        gate = self.server.gate
        gate["asked"].append(self.path)
        status, body = gate["answers"].get(self.path, (404, "not found"))
        time.sleep(gate["delay"])
        with contextlib.suppress(OSError):
            self.send_response(302 if "redirect" in gate else status)
            if "redirect" in gate:
                self.send_header("Location", gate["redirect"])
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.gate["put"].append(dict(line.split("=", 1) for line in body.splitlines()))
        self.send_response(self.server.gate["put_status"])
        self.end_headers()


def vm(*addresses, **attributes):
    nics = [{"IP": address} for address in addresses]
    return 200, {"VM": {"ID": "7", "USER_TEMPLATE": attributes, "TEMPLATE": {"NIC": nics}}}


def service(link=(3,), nodes=(7,)):
    def role(name, ids):
        return {"name": name, "cardinality": len(ids), "state": 2, "nodes": [{"deploy_id": n} for n in ids]}

    return 200, {"SERVICE": {"name": "f", "id": "1", "roles": [role("superlink", link), role("supernode", nodes)]}}


@pytest.fixture
def gate():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    server.gate = {"answers": {"/vm": vm()}, "put": [], "asked": [], "delay": 0, "put_status": 200}
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.gate["url"] = f"http://127.0.0.1:{server.server_port}"
    yield server.gate
    server.shutdown()
    server.server_close()


@pytest.fixture
def agent(tmp_path, gate):
    """Start an agent, with a process that only waits in the place of Flower's unless `flower` is true."""
    running = []
    waits = tmp_path / "waits"
    waits.write_text("#!/bin/sh\nexec cat\n")  # to the end of what it is told, as Flower's does
    waits.chmod(0o755)

    def start(role, *, token="secret", text=None, flower=False, **context):
        folder = tmp_path / "context"
        folder.mkdir()
        entries = {"ONEGATE_ENDPOINT": gate["url"], "VMID": "7", "ETH0_IP": ADDRESS, "ONEFLOWER_ROLE": role, **context}
        (folder / "context.sh").write_text(context_sh(entries) if text is None else text)
        if token:
            (folder / "token.txt").write_text(token)
        options = ("--home", str(tmp_path / "var"), "--context", str(folder))
        python = sys.executable if flower else str(waits)
        running.append(forked.Forked(AGENT, role, *options, folder=tmp_path, python=python))
        return running[-1]

    yield start
    for process in running:
        process.end()


def status(tmp_path):
    with contextlib.suppress(OSError, ValueError):
        return json.loads((tmp_path / "var" / "status.json").read_text())
    return {}


def until(condition, limit=10.0):
    deadline = time.monotonic() + limit
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return result


def confession(gate):
    published = [put for put in gate["put"] if "FL_ERROR" in put]
    return base64.b64decode(published[-1]["FL_ERROR"]).decode() if published else ""


def never_ready(gate):
    return not any(put.get("READY") == "YES" for put in gate["put"])


@pytest.mark.parametrize(
    ("wanted", "index", "status", "why"),
    [
        ("a==1", "https://index.org/simple", 78, "FL_PACKAGES: has a==1; expected name==version --hash=sha256:"),
        ("-r /etc/passwd", "/srv", 78, "FL_PACKAGES: is '-r /etc/passwd'; expected packages as name==version"),
        ("https://evil.org/a.whl", "/srv", 78, "FL_PACKAGES: is 'https://evil.org/a.whl'; expected packages as"),
        (f"a==1 {HASH}\n--index-url=https://evil.org", "/srv", 78, "--index-url=https://evil.org'; expected packages"),
        (f"flwr==0.1 {HASH}", "/srv", 78, f"asks for flwr==0.1; the runtime of this machine has flwr=={INSTALLED}"),
        (f"a==1 {HASH}", "/not/there", 75, "FL_PACKAGE_INDEX: the folder /not/there does not exist"),
    ],
)
def test_packages_that_cannot_be_installed_keep_a_machine_from_ready(agent, gate, wanted, index, status, why):
    process = agent("superlink", FL_PACKAGES=wanted, FL_PACKAGE_INDEX=index)
    assert process.wait(10) == status
    assert why in confession(gate)
    assert never_ready(gate)


def test_all_wrong_settings_are_published_together_and_the_agent_asks_not_to_be_restarted(agent, gate, tmp_path):
    wrong = {"FL_TLS_ENABLED": "maybe", "FL_MAX_RETRIES": "-1", "FL_USE_CASE": "llm-fine-tuning"}
    process = agent("supernode", **wrong, FL_ISOLATION="process")
    assert process.wait(10) == 78
    assert "FL_ISOLATION" not in confession(gate), "a template of an earlier release may still set it"
    for part in ("FL_TLS_ENABLED: is 'maybe'", "FL_MAX_RETRIES: is '-1'", "ML_FRAMEWORK: is 'sklearn'"):
        assert part in confession(gate)
    assert never_ready(gate)
    assert status(tmp_path)["health"] == "error"


def test_a_framework_that_the_form_wants_and_the_image_lacks_is_named(agent, gate):
    assert agent("supernode", FL_USE_CASE="image-classification", ML_FRAMEWORK="tensorflow").wait(10) == 75
    assert "trains with tensorflow (ML_FRAMEWORK), which this machine does not carry" in confession(gate)
    assert never_ready(gate)


def test_variables_that_only_another_version_knows_are_refused(agent, gate):
    assert agent("superlink", FL_TLS_REQUIRED="YES", ONEFLOWER_CHECKPOINT="disk:vdb").wait(10) == 78
    assert "The context sets FL_TLS_REQUIRED, ONEFLOWER_CHECKPOINT, which this image does not know" in confession(gate)
    assert never_ready(gate)


@pytest.mark.parametrize(("role", "context", "code"), [("superlink", {"FL_TLS_ENABLED": "maybe"}, 78), ("boot", {}, 3)])
def test_as_json_also_what_is_logged_before_there_are_settings(agent, gate, tmp_path, role, context, code):
    gate["answers"]["/service"] = service()
    assert (
        agent(role, FL_LOG_FORMAT="json", **context, **({"ONEFLOWER_ROLE": "worker"} if role == "boot" else {})).wait(
            10
        )
        == code
    )
    lines = [json.loads(line) for line in (tmp_path / "stderr").read_text().splitlines()]
    assert [line.get("federation") for line in lines] == ["f" if context else None] * len(lines), "from the first on"
    assert ("maybe" if context else "worker") in lines[-1]["message"]
    assert {(line["level"], line["vm"], line["process"]) for line in lines[-1:]} == {("ERROR", "7", "agent")}


def test_a_role_that_does_not_exist_is_published(agent, gate):
    assert agent("boot", ONEFLOWER_ROLE="worker").wait(10) == 3
    assert "ONEFLOWER_ROLE is 'worker'" in confession(gate)


def test_a_full_disk_is_published_though_the_status_cannot_be_written(agent, gate, tmp_path):
    """A folder in the place of the status file: nothing that could be written, as on a disk that is full."""
    (tmp_path / "var" / "status.json").mkdir(parents=True)
    (tmp_path / "var" / "writable").mkdir()
    gate["answers"]["/vm"] = vm(READY="YES")
    assert agent("superlink").wait(10) == 75
    assert "Cannot write" in confession(gate)
    assert gate["put"][-1]["READY"] == "NO"


@pytest.fixture
def again(agent, gate, tmp_path, monkeypatch):
    """Start an agent as systemd does, in an image: what it fails with last is kept. Return its lines by priority."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")

    def start(role, **context):
        gate["put"].clear()
        if (tmp_path / "context").exists():
            shutil.rmtree(tmp_path / "context")
        (tmp_path / "stderr").unlink(missing_ok=True)
        process = agent(role, **context)
        return process, lambda most: [
            line for line in (tmp_path / "stderr").read_text().splitlines() if line[:2] <= f"<{most}"
        ]

    return start


def test_a_failure_that_lasts_is_told_and_published_once(again, gate):
    wrong = {"FLOWER_VERSION": "1.42.99"}
    process, lines = again("superlink", **wrong)
    assert process.wait(10) == 75
    assert "1.42.99" in lines(3)[0]
    [told] = gate["put"]
    gate["answers"]["/vm"] = vm(**told)
    process, lines = again("superlink", **wrong)
    assert process.wait(10) == 75
    assert lines(5) == [], "the console has it"
    assert gate["put"] == [], "and OneGate"
    gate["answers"]["/vm"] = vm()  # OneGate forgot it
    assert again("superlink", **wrong)[0].wait(10) == 75
    assert gate["put"] == [told]
    gate["answers"]["/vm"] = vm(**told)
    process, lines = again("superlink", FLOWER_VERSION="1.42.98")
    assert process.wait(10) == 75
    assert "1.42.98" in lines(3)[0]
    assert "1.42.98" in confession(gate)


def test_what_a_step_failed_with_stays_published_until_the_step_is_over(again, gate, tmp_path):
    gate["answers"]["/service"] = service()
    settings = {"FL_SUPERLINK_ADDRESS": "127.0.0.1:1", "FL_TLS_ENABLED": "NO", "FL_SUPERNODE_AUTH": "NO"}
    settings |= {"FL_NODE_CONFIG": "a=1", "FL_DATA_PATH": str(tmp_path / "data")}
    process, lines = again("supernode", **settings)
    assert process.wait(10) == 75
    assert "FL_DATA_PATH" in confession(gate)
    told = {name: value for put in gate["put"] for name, value in put.items()}
    gate["answers"]["/vm"] = vm(**told)
    process, lines = again("supernode", **settings)
    assert process.wait(10) == 75
    assert lines(5) == []
    assert "FL_ERROR" not in {name for put in gate["put"] for name in put}
    (tmp_path / "data").mkdir()
    process, lines = again("supernode", **settings)
    until(lambda: any(put.get("FL_ERROR") == "-" for put in gate["put"]))
    until(lambda: any("withdraw: it has come further than the last time" in line for line in lines(5)))


def test_without_a_context_the_reason_is_told_once(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    lives = [{"RUNTIME_DIRECTORY": str(tmp_path / "run"), "JOURNAL_STREAM": "8:1", "PATH": os.environ["PATH"]}] * 2
    first, second = (
        forked.run(AGENT, "boot", "--home", str(tmp_path / "var"), "--context", str(tmp_path / "none"), env=env)
        for env in lives
    )
    assert first.stderr.startswith("<3>oneflower-agent: Cannot read the VM's context")
    assert second.stderr == first.stderr.replace("<3>", "<6>")


def test_a_failure_is_told_again_after_a_while(tmp_path):
    now = [1000.0]
    assert LastError(str(tmp_path), lambda: now[0]).is_news("the disk is full", "start")
    now[0] += 590
    last = LastError(str(tmp_path), lambda: now[0])
    assert (last.step, last.is_news("the disk is full", "start")) == ("start", False)
    now[0] += 20
    assert LastError(str(tmp_path), lambda: now[0]).is_news("the disk is full", "start")
    LastError(str(tmp_path)).forget()
    assert not LastError(str(tmp_path))


def test_a_flower_release_that_is_not_installed_is_refused(agent, gate):
    assert agent("superlink", FLOWER_VERSION="1.42.99").wait(10) == 75
    assert f"FLOWER_VERSION asks for Flower 1.42.99; this machine carries {INSTALLED}" in confession(gate)
    assert never_ready(gate)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"text": "A=$(id)\n"}, "context.sh is malformed at line 1"),
        ({"token": ""}, 'Set TOKEN="YES"'),
        ({"FL_SUPERLINK_ADDRESS": ADDRESS + ":9092"}, "no CA certificate to trust"),
    ],
)
def test_what_cannot_heal_ends_in_one_sentence(agent, gate, tmp_path, change, cause):
    process = agent("supernode", **change)
    assert process.wait(10) in (75, 78)
    assert cause in status(tmp_path)["causes"][0]
    assert never_ready(gate)


def test_a_context_without_an_address_is_named(agent, gate):
    assert agent("superlink", ETH0_IP="").wait(10) == 75
    assert "ETH0_IP" in confession(gate)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ((500, "Internal server error"), "answered 500"),
        ((400, "Service 1 does not contain VM 7."), "does not contain VM 7"),
        ((200, "<html>proxy</html>"), "not OneGate's"),
        ((200, {"SERVICE": {"roles": [{"name": 3}]}}), "not OneGate's"),
        ((200, "[]"), "not OneGate's"),
        (service(link=()), "no SuperLink VM"),
    ],
)
def test_what_may_heal_is_asked_again_and_heals(agent, gate, tmp_path, answer, cause):
    gate["answers"]["/service"] = answer
    agent("supernode")
    until(lambda: cause in "".join(status(tmp_path).get("causes", [])))
    asked = len(gate["asked"])
    until(lambda: len(gate["asked"]) > asked)
    gate["answers"] |= {"/service": service(), "/vms/3": vm(READY="NO")}
    until(lambda: "The SuperLink is not ready yet" in "".join(status(tmp_path)["causes"]))
    assert never_ready(gate)


def test_a_onegate_that_is_down_is_waited_for(agent, gate, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    agent("supernode", ONEGATE_ENDPOINT=url)
    until(lambda: "cannot be reached" in "".join(status(tmp_path).get("causes", [])))


def test_a_onegate_that_comes_late_hears_of_settings_that_are_not_valid(agent, gate):
    gate["put_status"] = 503
    process = agent("supernode", FL_MAX_RETRIES="-1")
    until(lambda: len(gate["put"]) > 1)
    gate["put_status"] = 200
    assert process.wait(10) == 78
    assert "FL_MAX_RETRIES: is '-1'" in confession(gate)


@pytest.mark.parametrize("endpoint", ["onegate.lab.org:5030", "http://", "http://[1", "http://x:port"])
def test_an_endpoint_that_is_no_url_is_named(endpoint):
    with pytest.raises(OneGateError, match="ONEGATE_ENDPOINT is"):
        OneGate(endpoint, "token", "7")


def test_a_token_with_a_line_break_is_not_shown(tmp_path):
    (tmp_path / "token.txt").write_text("hidden\ntoken")
    with pytest.raises(OneflowerError, match="No OneGate token at") as refused:
        read_token(tmp_path)
    assert "hidden" not in refused.value.sentence


def test_the_token_goes_nowhere_else(gate):
    gate["redirect"] = "http://127.0.0.1:1"
    with pytest.raises(OneGateError, match="answered 302"):  # to follow would be refused: nobody listens there
        OneGate(gate["url"], "token", "7").attributes()


def test_a_onegate_whose_name_is_not_known_is_a_matter_of_dns(monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OneGateError, match="Name or service not known") as refused:
        OneGate("http://onegate.lab.org:5030", "token", "7").attributes()
    assert "Check the DNS servers" in refused.value.hint


def test_a_slow_onegate_is_waited_for(agent, gate, tmp_path):
    gate["delay"] = 0.4
    gate["answers"] |= {"/service": service(), "/vms/3": vm(READY="NO")}
    agent("supernode")
    until(lambda: "The SuperLink is not ready yet" in "".join(status(tmp_path).get("causes", [])))


def test_a_token_that_is_refused_is_not_tried_for_ever(agent, gate, tmp_path):
    gate["answers"] |= {"/vm": (401, "Not authorized"), "/service": (401, "Not authorized")}
    assert agent("supernode").wait(10) == 75
    assert "refused this VM (401" in status(tmp_path)["causes"][0]


def test_a_ready_of_an_earlier_life_is_taken_back_at_once(agent, gate):
    gate["answers"] |= {"/vm": vm(READY="YES"), "/service": (500, "later")}
    agent("supernode")
    until(lambda: gate["put"])
    assert gate["put"][0] == {"READY": "NO"}


def test_a_machine_that_stops_takes_ready_back_before_it_ends_its_last_task(gate, tmp_path, monkeypatch):
    gate["answers"] |= {"/vm": vm(READY="YES")}
    then = []

    def stop(*_):
        raise module.Stopped

    monkeypatch.setattr(supernode.SuperNode, "leave", lambda _: then.extend(gate["put"]))
    monkeypatch.setattr(module, "_boot", stop)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    context = tmp_path / "context"
    context.mkdir()
    given = {"ONEGATE_ENDPOINT": gate["url"], "VMID": "7", "ETH0_IP": ADDRESS, "ONEFLOWER_ROLE": "supernode"}
    (context / "context.sh").write_text(context_sh(given))
    (context / "token.txt").write_text("secret")
    assert module.run_role("supernode", tmp_path / "var", context, AgentLog(context)) == 0
    assert then == [{"READY": "NO"}]


def test_a_onegate_that_is_silent_does_not_keep_a_machine_from_stopping(gate, monkeypatch):
    monkeypatch.setattr(reporting, "_PARTING", 0.1)
    gate["delay"] = 3
    begun = time.monotonic()
    reporting.part(OneGate(gate["url"], "secret", "7"))
    assert time.monotonic() - begun < 2


def link(gate, endpoint, **attributes):
    published = {"READY": "YES", "FL_ENDPOINT": endpoint, "FL_VERSION": INSTALLED, "FL_TLS": "YES", **attributes}
    gate["answers"] |= {"/service": service(), "/vms/3": vm(ADDRESS, **published)}
    gate["answers"]["/service?extended=true"] = extended()


def extended(**context):
    """OneGate's service with its VMs in full: where the SuperLink's context is."""
    status, body = service()
    nodes = body["SERVICE"]["roles"][0]["nodes"]
    nodes[0]["vm_info"] = {"VM": {"TEMPLATE": {"CONTEXT": {"ETH0_IP": ADDRESS, **context}}}}
    return status, body


def later_ca():
    """The CA of a SuperLink whose clock is years ahead."""
    with tempfile.TemporaryDirectory() as folder:
        ahead = tls.current_time() + datetime.timedelta(days=3650)
        return base64.b64encode(tls.make_certificates(Path(folder), [("IP", ADDRESS)], ahead).ca.read_bytes()).decode()


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({}, "no CA certificate to trust the SuperLink by"),
        ({"FL_CA_CERT": "%%%"}, "is neither PEM nor base64"),
        ({"FL_CA_CERT": base64.b64encode(b"garbage").decode()}, "holds no PEM certificate"),
        ({"FL_CA_CERT": later_ca()}, "is not valid before"),
        ({"FL_VERSION": "1.42.99"}, f"The SuperLink runs Flower 1.42.99, this SuperNode {INSTALLED}"),
        ({"FL_ENDPOINT": "nowhere"}, "an address that is not valid"),
        (
            {"FL_ENDPOINT": "10.6.6.6:9092"},
            "the address 10.6.6.6, which is not one that OpenNebula gave it (127.77.0.9)",
        ),
    ],
)
def test_a_supernode_without_a_ca_it_can_trust_stays_out_until_there_is_one(agent, gate, attributes, cause):
    link(gate, f"{ADDRESS}:9092", **attributes)
    assert agent("supernode").wait(10) == 75
    assert cause in confession(gate)
    assert never_ready(gate)


def test_an_address_that_the_superlinks_context_names_is_its_own(agent, gate):
    link(gate, "10.6.6.6:9092")
    gate["answers"]["/service?extended=true"] = extended(FL_FLEET_API_ADDRESS="10.6.6.6:9092")
    assert agent("supernode").wait(10) in (75, 78)
    assert "no CA certificate to trust the SuperLink by" in confession(gate)


def test_a_superlink_with_another_ones_certificate_is_not_trusted(agent, gate, tmp_path):
    real = tls.make_certificates(tmp_path / "real", [("IP", ADDRESS)])
    wrong = tls.make_certificates(tmp_path / "wrong", [("IP", ADDRESS)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(real.certificate, real.key)
    server = http.server.ThreadingHTTPServer((ADDRESS, 0), Gate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        link(gate, f"{ADDRESS}:{server.server_port}", FL_CA_CERT=base64.b64encode(wrong.ca.read_bytes()).decode())
        assert agent("supernode").wait(10) == 75
        assert "is not to be trusted" in confession(gate)
        assert "Nothing is sent in plaintext" in confession(gate)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.e2e  # with a real Flower, which takes the port itself
def test_a_port_in_use_is_named(agent, gate, tmp_path):
    with socket.socket() as taken:
        taken.bind((ADDRESS, FLEET_PORT))
        taken.listen()
        assert agent("superlink", flower=True).wait(20) == 75
    assert "A port that Flower needs is already in use" in confession(gate)
    assert never_ready(gate)
    assert [step["name"] for step in status(tmp_path)["steps"] if step["outcome"] == "failed"] == ["answer"]


def test_a_disk_that_cannot_be_written_is_named(agent, gate, tmp_path):
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "tls").write_text("in the way")
    assert agent("superlink").wait(10) == 75
    assert "Cannot write" in confession(gate)
    assert never_ready(gate)


def test_a_bad_certificate_of_ones_own_is_refused(agent, gate, tmp_path):
    one = tls.make_certificates(tmp_path / "a", [("IP", ADDRESS)])
    two = tls.make_certificates(tmp_path / "b", [("IP", ADDRESS)])
    encode = lambda path: base64.b64encode(path.read_bytes()).decode()  # noqa: E731
    given = {
        "FL_SSL_CA_CERTFILE": encode(two.ca),
        "FL_SSL_CERTFILE": encode(one.certificate),
        "FL_SSL_KEYFILE": encode(one.key),
    }
    assert agent("superlink", **given).wait(10) == 78
    assert "is not signed by FL_SSL_CA_CERTFILE" in confession(gate)
    log = "".join(str(put) for put in gate["put"])
    assert encode(one.key)[:60] not in log


def test_status_tells_people_and_programs(agent, gate, tmp_path):
    gate["answers"]["/service"] = (500, "no")
    agent("supernode")
    until(lambda: status(tmp_path).get("causes"))
    command = [AGENT, "status", "--home", str(tmp_path / "var")]
    told = forked.run(*command)
    assert told.returncode == 7
    assert told.stdout.startswith("supernode: starting")
    assert "discover" in told.stdout
    as_json = forked.run(*command, "--json")
    assert json.loads(as_json.stdout)["ready"] is False
    nobody = forked.run(*command[:-1], str(tmp_path))
    assert nobody.returncode == 4
    assert "No agent has run here" in nobody.stderr


def test_a_signal_ends_it_at_any_step(agent, gate):
    gate["answers"]["/service"] = (500, "no")
    process = agent("supernode")
    until(lambda: "/service" in gate["asked"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_a_vm_of_another_service_is_told_by_the_words_that_a_real_onegate_was_recorded_with():
    recorded = Path(__file__).parents[1] / "conformance" / "exchanges.jsonl"
    exchanges = map(json.loads, recorded.read_text().splitlines())
    [exchange] = [found for found in exchanges if found.get("name") == "200-gate-get-foreign-vm"]
    assert (exchange["status"], no_such_vm(json.dumps(exchange["response"]))) == (400, True)
