"""SuperNodes behind networks as they are: an HTTP proxy, a line that is cut in each phase of a run, a line to far away."""

from __future__ import annotations

import json

import pytest

from .networks import HttpProxy, Line, proxy_url

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    found = HttpProxy(tmp_path_factory.mktemp("proxy"), [9092])
    yield found
    found.close()


@pytest.fixture(scope="module")
def line(proxy):
    """The line from the SuperNodes to their proxy."""
    found = Line(proxy.address)
    yield found
    found.close()


@pytest.fixture(scope="module")
def fed(user, line):
    user("up", "far", "--set", f"FL_PROXY={proxy_url(line.address)}", "--set", "FL_LOG_LEVEL=DEBUG")
    yield "far"
    user("down", "far")


def test_supernodes_reach_their_superlink_through_the_proxy_and_nothing_else_does(user, fed, proxy, line):
    done = user("run", "image-classification", "-f", fed, "--rounds", "2", "-o", "json")
    assert [row["nodes"] for row in json.loads(done.stdout)["rows"]] == [2, 2]
    link, *nodes = user.show(fed)["vms"]
    assert set(proxy.tunnels()) == {f"{link['ip']}:9092"}
    # A SuperNode has no other connection to its SuperLink, and what runs there has none to the proxy.
    for node in nodes:
        ends = {
            connection.raddr[:2]
            for process in user.processes(node["id"])
            for connection in process.net_connections("tcp")
            if connection.raddr and connection.status == "ESTABLISHED"
        }
        assert tuple(line.address) in ends
        assert (link["ip"], 9092) not in ends
    # The password is in no log, on no command line, and in no environment of a process.
    for vm in (link, *nodes):
        assert HttpProxy.password not in (user.machine(vm["id"]) / "console.log").read_text()
        for process in user.processes(vm["id"]):
            assert HttpProxy.password not in " ".join([*process.cmdline(), *process.environ().values()])
    assert HttpProxy.password not in json.dumps(user.show(fed))
