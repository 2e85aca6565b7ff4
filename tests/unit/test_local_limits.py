"""What the local cloud's servers do with requests that are too long, too slow, too deep, or meant for somebody else."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import xmlrpc.client

import httpx
import pytest
import uvicorn

from oneflower.cloud import Cloud, Endpoints
from oneflower.local import daemon, wire
from oneflower.local.home import LocalHome
from oneflower.local.serving import ByPort, Server, bound_waiting
from oneflower.opennebula import expressions
from tests.conformance.cloud import SECRET, LocalServers

from .strangers import stranger

ADDRESS = "127.77.0.5"
DEEP = 200_000


@pytest.fixture
def cloud(tmp_path):
    made = LocalServers(tmp_path / "cloud.db")
    made.compute.catalogue.save_template({"NAME": "vm", "CPU": "1", "CONTEXT": {"TOKEN": "YES"}})
    made.compute.instantiate(0, "vm", "", hold=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = LocalHome(tmp_path_factory.mktemp("cloud"), tmp_path_factory.mktemp("cache"))
    yield made
    daemon.stop(made)


class Away:
    """Surroundings that can start nothing."""

    def revive(self):
        return None

    def when_unreachable(self, variable):
        return variable


class Counted:
    """A body that comes in pieces, and knows how many of them were asked for."""

    def __init__(self, first=b"", megabytes=300):
        self.first, self.megabytes, self.taken = first, megabytes, 0

    async def __aiter__(self):
        yield self.first
        for _ in range(self.megabytes):
            self.taken += 1
            yield b" " * 1_000_000


def call(method, *parameters, session=SECRET):
    return xmlrpc.client.dumps((session, *parameters), method).encode()


# -- too long --------------------------------------------------------------------------------------------------------


def test_a_call_is_not_read_on_when_its_session_is_wrong(cloud):
    body = Counted(call("one.system.version", "x" * 5000, session="oneadmin:wrong"))
    answer = cloud.xmlrpc.post("/RPC2", content=body)
    [[success, why, code]] = xmlrpc.client.loads(answer.text)[0]
    assert (success, code) == (False, 0x0100)
    assert why == "[one.system.version] User couldn't be authenticated, aborting call."
    assert body.taken == 0


def test_what_does_not_begin_with_a_session_is_not_read_on(cloud):
    body = Counted(b"<?xml version='1.0'?><methodCall>" + b"<x>" * 3000)
    answer = cloud.xmlrpc.post("/RPC2", content=body)
    assert "authenticated" in answer.text
    assert body.taken == 0


def test_no_body_is_taken_in_beyond_the_limit(cloud):
    limit = wire.LONGEST_BODY // 1_000_000 + 1
    for client, path, method, headers in (
        (cloud.oneflow, "/service_template", "POST", {}), (cloud.onegate, "/vm", "PUT", cloud.headers(0)),
        (cloud.onegate, "/vms/0/action", "POST", cloud.headers(0)),
    ):  # fmt: skip
        body = Counted()
        answer = client.request(method, path, content=body, headers=headers)
        assert (answer.status_code, answer.headers.get("connection")) == (413, "close"), answer.text
        assert "at most 4096 KB" in answer.text
        assert body.taken <= limit
    body = Counted(call("one.template.allocate", "x").replace(b"<string>x", b"<string>" + b"x" * 5000))
    assert cloud.xmlrpc.post("/RPC2", content=body).status_code == 413
    assert body.taken <= limit


def test_nobody_is_believed_who_announces_too_much(cloud):
    headers = {"Content-Length": str(10**12)}
    assert cloud.oneflow.post("/service_template", content=b"", headers=headers).status_code == 413
    assert cloud.xmlrpc.post("/RPC2", content=b"", headers=headers).status_code == 413


def test_a_stranger_sends_no_body_at_all(cloud):
    cloud.oneflow.auth = None
    for client, path, method in ((cloud.oneflow, "/service_template", "POST"), (cloud.onegate, "/vm", "PUT")):
        body = Counted()
        assert client.request(method, path, content=body).status_code == 401
        assert body.taken == 0


# -- too slow --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The servers on a real socket, with little patience."""
    made = LocalServers(tmp_path_factory.mktemp("slow") / "cloud.db")
    listener = socket.create_server((ADDRESS, 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(ByPort({port: made.oneflow.app}), log_config=None, lifespan="off", ws="none")
    bound_waiting(config, 0.3)
    running, listens = Server(config), threading.Event()
    running.on_start = listens.set
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert listens.wait(10)
    yield port
    running.should_exit = True
    thread.join()
    made.close()


@pytest.mark.parametrize("begun", [b"", b"GET /service HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"\r\n"])
def test_a_connection_that_asks_nothing_is_closed(server, begun):
    with socket.create_connection((ADDRESS, server), timeout=10) as client:
        client.sendall(begun)
        assert client.recv(100) == b""


def test_neither_is_a_second_question_waited_for(server):
    with socket.create_connection((ADDRESS, server), timeout=10) as client:
        client.sendall(b"GET /service HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 401 " in client.recv(1000)
        client.sendall(b"GET /service HTTP/1.1\r\nX-Slow: ")
        while client.recv(1000):
            pass


def test_a_body_that_does_not_come_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(wire, "BODY_SECONDS", 0.2)
    answer = b""
    with socket.create_connection((ADDRESS, server), timeout=10) as client:
        authorization = f"Basic {base64.b64encode(SECRET.encode()).decode()}"
        head = f"POST /service_template HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n"
        client.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        while part := client.recv(1000):
            answer += part
    assert b" 408 " in answer


# -- too deep --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["[" * DEEP, '{"a":' * DEEP, "[" * 101 + "]" * 101, '{"name":"[[","x":' + "[" * 100 + "]" * 100 + "}"]
)
def test_json_is_as_deep_as_ruby_allows(cloud, caplog, content):
    answer = cloud.oneflow.post("/service_template", content=content)
    assert (answer.status_code, answer.text) == (400, "nesting of 101 is too deep")
    answer = cloud.oneflow.post("/service/0/action", content=content)
    assert (answer.status_code, json.loads(answer.text)["reason"]) == (500, "nesting of 101 is too deep")
    answer = cloud.onegate.post("/vms/0/action", content=content, headers=cloud.headers(0))
    assert (answer.status_code, answer.text) == (400, "nesting of 101 is too deep")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_brackets_in_text_are_not_deep(cloud):
    body = {"name": "[{" * 500 + '\\"', "roles": []}
    assert cloud.oneflow.post("/service_template", json=body).status_code == 201


@pytest.mark.parametrize("depth", [900, 20_000])
@pytest.mark.parametrize("shape", ["({})", "!{}", "A > 1 && {}"])
def test_an_expression_of_many_brackets_is_refused(cloud, caplog, depth, shape):
    before, after = shape.split("{}")
    expression = before * depth + "A > 1" + after * depth
    policy = {"type": "CHANGE", "adjust": 1, "expression": expression}
    role = {"name": "a", "type": "vm", "template_id": 0, "min_vms": 0, "max_vms": 2, "elasticity_policies": [policy]}
    answer = cloud.oneflow.post("/service_template", json={"name": "t", "roles": [role]})
    assert answer.status_code == 400
    assert f"more than {expressions.MOST_NESTED} conditions within one another" in answer.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_expression_of_some_brackets_is_fine():
    found = expressions.parse("(" * 100 + "1 > 0" + ")" * 100)
    assert found.value({}.get)[0] is True


def test_a_deep_call_is_answered(cloud, caplog):
    deep = b"<value><array><data>" * 5000 + b"<value><int>1</int></value>" + b"</data></array></value>" * 5000
    for parameter in (
        b"<param>" + deep + b"</param>",
        b"<param><value>oneadmin</value></param><param>" + deep + b"</param>",
    ):
        content = (
            b"<?xml version='1.0'?><methodCall><methodName>one.vm.info</methodName><params>"
            + parameter
            + b"</params></methodCall>"
        )
        assert "methodResponse" in cloud.xmlrpc.post("/RPC2", content=content).text
    trusted = call("one.vm.info").replace(b"</params>", b"<param>" + deep + b"</param></params>")
    [[success, _, code]] = xmlrpc.client.loads(cloud.xmlrpc.post("/RPC2", content=trusted).text)[0]
    assert (success, bool(code)) == (False, True)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- meant for somebody else -----------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_page_whose_name_leads_here_is_refused(home):
    found = daemon.connect(home)
    own = found.oneflow.rpartition(":")[0].partition("//")[2]
    for url in (found.oneflow + "/service", found.onegate + "/vm", found.xmlrpc):
        for host in (
            "evil.example",
            "evil.example:2474",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            f"{own}.nip.io",
            "",
        ):
            answer = httpx.post(
                url, headers={"Host": host, "Content-Type": "text/plain"}, content=b"x", trust_env=False
            )
            assert (answer.status_code, "answers as" in answer.text) == (403, True), host
        for host in (own, f"{own}:2474", "127.0.0.1:1", "localhost", "LOCALHOST:2474"):
            answer = httpx.post(url, headers={"Host": host}, content=b"x", trust_env=False)
            assert answer.status_code != 403, host


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as another user")
def test_a_daemon_says_who_has_its_port_and_no_machine_sends_it_a_token(home):
    from oneflower_appliance.agent.onegate import OneGate, OneGateError
    from oneflower_appliance.errors import OneflowerError

    found = daemon.connect(home)
    host, port = found.onegate.removeprefix("http://").split(":")
    daemon.stop(home)
    with stranger(host, int(port)) as (_, received):
        with pytest.raises(
            OneflowerError, match=rf"another user of this machine has taken port {port} by user id 65534"
        ):
            daemon.connect(home)
        with pytest.raises(OneGateError, match="uid 65534"):
            OneGate(found.onegate, "token", "0").publish({"READY": "YES"})
        for ask in (lambda made: made.oneflow.services(), lambda made: made.core.version()):
            # The command's surroundings would start the daemon again, which then says who has the port.
            cloud = Cloud(
                Endpoints(found.oneflow.replace("2474", port), f"{found.onegate}/RPC2", found.auth, direct=True), Away()
            )
            with pytest.raises(OneflowerError, match="another user of this machine .uid 65534. listens there"):
                ask(cloud)
            cloud.close()
        assert received() == b""
    assert daemon.connect(home).onegate == found.onegate
