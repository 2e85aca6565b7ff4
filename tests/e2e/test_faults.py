"""What goes wrong: processes are killed, settings are wrong, names are taken. The federation comes back, or says why."""

from __future__ import annotations

import base64
import functools
import os
import signal
import subprocess
import time

import httpx
import psutil
import pytest

from oneflower.cloud import Cloud, Endpoints
from oneflower.local import daemon
from oneflower.runtimes import runtime
from oneflower_appliance.agent.node_key import NodeKey

from .conftest import RELEASE, User, until

pytestmark = pytest.mark.e2e

FLOWER = "oneflower_appliance.flower.main"
AGENT = " boot --parent"


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: _ended(process), 5, "the end of the process")


def _ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def partitions(user, name):
    return sorted(vm["partition"] for vm in user.show(name)["vms"] if vm["role"] == "supernode")


def test_whatever_is_killed_the_federation_is_whole_again_within_a_minute(user, fed):
    link, one, two = (vm["id"] for vm in user.show(fed)["vms"])
    victims = {
        "a SuperNode's Flower": lambda: user.process(one, FLOWER, "supernode"),
        "the SuperLink's Flower": lambda: user.process(link, FLOWER, "superlink"),
        "a SuperNode's agent": lambda: user.process(two, AGENT, without=("init.py",)),
        "the SuperLink's agent": lambda: user.process(link, AGENT, without=("init.py",)),
        "a SuperNode's init": lambda: user.process(one, "init.py"),
        "the SuperLink's init": lambda: user.process(link, "init.py"),
        "the daemon": lambda: psutil.Process(_daemon(user)),
    }
    for what, find in victims.items():
        before = _ready_since(user, fed)
        victim = find()
        kill(victim)
        if what != "the daemon":
            noticed = functools.partial(_noticed, user, fed, before)
            until(noticed, 20, f"a notice that {what} is gone")
        until(lambda: user.is_ready(fed), 60, f"recovery after {what} was killed")
        assert partitions(user, fed) == ["0", "1"], what
        until(lambda: _nodes_online(user, fed) >= 2, 30, f"both nodes online after {what} was killed")


def _ready_since(user, name):
    return {vm["id"]: vm["ready_since"] for vm in user.show(name)["vms"]}


def _noticed(user, name, before):
    """Whether a machine of the federation is not ready, or was not in between."""
    return _ready_since(user, name) != before


def _daemon(user):
    from oneflower.local import daemon

    return daemon.find(user.home).pid


def _nodes_online(user, name):
    status = user.show(name)
    with user.client(status) as client:
        nodes = until(lambda: _answer(client, f"https://{status['control']}/oneflower/nodes"), 10, "an answer")
    return sum(node["status"] == "online" for node in nodes)


def _nodes_registered(user, name):
    status = user.show(name)
    with user.client(status) as client:
        nodes = client.get(f"https://{status['control']}/oneflower/nodes").json()
    return sum(node["status"] != "unregistered" for node in nodes)


def _answer(client, url):
    try:
        return client.get(url).json()
    except httpx.HTTPError:
        return None


def test_a_machine_never_says_ready_while_its_flower_is_down(user, fed):
    link = user.show(fed)["vms"][0]["id"]
    flower = user.process(link, FLOWER, "superlink")
    os.kill(flower.pid, signal.SIGSTOP)
    kill(flower)
    [seen] = until(lambda: [vm for vm in user.show(fed)["vms"] if not vm["ready"]], 10, "READY to be withdrawn")
    assert seen["id"] == link
    assert seen["error"]
    until(lambda: user.is_ready(fed), 60, "recovery")


def test_a_node_that_is_not_of_the_service_cannot_join_with_the_right_ca(user, fed, tmp_path):
    status = user.show(fed)
    ca = user.machine(status["vms"][0]["id"]) / "var" / "tls" / "ca.crt"
    found = runtime.find(user.home.runtimes, RELEASE, "sklearn")
    key, log = NodeKey.of(tmp_path / "node.key"), tmp_path / "log"
    before = _nodes_registered(user, fed)
    for extra in ([], ["--auth-supernode-private-key", str(key.path)]):
        with log.open("w") as output:  # not a pipe: Flower's helper would hold it open
            intruder = subprocess.run(
                [found.bin / "flower-supernode", "--superlink", status["endpoint"], "--root-certificates", str(ca),
                 "--host", "127.88.0.1", *extra],
                env={**user.environment, "FLWR_HOME": str(tmp_path), "PATH": f"{found.bin}:{os.environ['PATH']}",
                     "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"},
                stdout=output, stderr=subprocess.STDOUT, timeout=60, check=False,
            )  # fmt: skip
        assert intruder.returncode == 1, log.read_text()
        assert "SuperNode ID" not in log.read_text()
    assert _nodes_registered(user, fed) == before


def test_a_node_that_was_unregistered_comes_back_with_another_key(user, fed):
    """Flower never takes a key again that was unregistered; before, such a node was lost permanently."""
    status = user.show(fed)
    node = status["vms"][1]
    key = (user.machine(node["id"]) / "var" / "tls" / "node.pub").read_text()
    with user.client(status) as client:
        assert client.delete(f"https://{status['control']}/oneflower/nodes/{node['node_id']}").status_code == 200

    def back():
        found = next(vm for vm in user.show(fed)["vms"] if vm["id"] == node["id"])
        return found["ready"] and found["node_id"] != node["node_id"]

    until(back, 120, "the node with another key")
    assert (user.machine(node["id"]) / "var" / "tls" / "node.pub").read_text() != key
    until(lambda: _nodes_online(user, fed) == 2, 30, "both nodes online")


def test_scaling_keeps_partitions_apart_and_reuses_freed_ones(user, fed):
    assert "has 3 SuperNodes" in user("scale", fed, "3").stdout
    assert partitions(user, fed) == ["0", "1", "2"]
    done = user("scale", fed, "2")
    assert "Removing the oldest: supernode_0" in done.stderr
    assert partitions(user, fed) == ["1", "2"]
    until(lambda: _nodes_registered(user, fed) == 2, 150, "the end of the registration of a node that left")
    user("scale", fed, "3")
    assert partitions(user, fed) == ["0", "1", "2"]
    user("scale", fed, "2")
    assert "it was deployed for 2 to 10" in user("scale", fed, "1", code=3).stderr
    assert "it was deployed for 2 to 10" in user("scale", fed, "11", code=3).stderr


def test_two_federations_two_users_and_a_name_used_twice(user, fed, tmp_path):
    assert "There is already a federation called 'fed'" in user("up", fed, code=5).stderr
    user("up", "second")
    other = User(tmp_path)
    try:
        other("up", fed)
        mine, second, theirs = user.show(fed), user.show("second"), other.show(fed)
        addresses = [vm["ip"] for status in (mine, second, theirs) for vm in status["vms"]]
        assert len(set(addresses)) == len(addresses) == 9
        assert "Which federation?" in user("show", code=2).stderr
        user("down", "second")
        assert other.is_ready(fed)
        assert user.is_ready(fed)
    finally:
        other.leave()
    assert "nothing to do" in user("down", "second").stderr
    assert user.is_ready(fed)


def test_a_deployment_that_fails_says_why_and_leaves_nothing(user):
    bad = base64.b64encode(b"no certificate").decode()
    given = [word for part in ("CA_CERTFILE", "CERTFILE", "KEYFILE") for word in ("--set", f"FL_SSL_{part}={bad}")]
    done = user("up", "broken", *given, code=7)
    assert "superlink_0: FL_SSL_CA_CERTFILE holds no PEM certificate" in done.stderr
    assert "rolling back" in done.stderr
    assert "no federation called 'broken'" in user("show", "broken", code=4).stderr
    kept = user("up", "kept", *given, "--keep", code=7)
    assert "oneflower logs kept" in kept.stderr
    assert user.show("kept")["vms"][0]["error"]
    user("down", "kept")


def test_a_static_superlink_without_its_ca_keeps_a_supernode_out(user, fed):
    """A static address without that SuperLink's CA: the SuperNode does not start, and sends nothing in plaintext."""
    done = user("up", "static", "--set", f"FL_SUPERLINK_ADDRESS={user.show('fed')['endpoint']}", code=7)
    assert "no CA certificate to trust the SuperLink by" in done.stderr


def test_ctrl_c_while_deploying_rolls_back(user):
    process = user.start("up", "interrupted")
    for line in process.stdout:
        if "supernode_0" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "rolling back" in output
    assert "no federation called 'interrupted'" in user("show", "interrupted", code=4).stderr


def test_nothing_is_left_after_down(newcomer):
    newcomer(
        "up",
        "--set",
        "FL_TLS_ENABLED=NO",
        "--set",
        "FL_SUPERNODE_AUTH=NO",
        "--set",
        "FL_LOG_LEVEL=ERROR",
        "--set",
        "FL_LOG_FORMAT=json",
        "--set",
        "FL_NODE_CONFIG=site=lab room='two b' partition-id=0 num-partitions=1",
    )
    assert newcomer.is_ready("federation")
    assert len(newcomer.processes()) >= 9
    started = time.monotonic()
    newcomer("down")
    assert time.monotonic() - started < 30
    assert newcomer.processes() == []
    assert list((newcomer.home.state / "machines").iterdir()) == []
    newcomer("down")


def test_a_machine_that_is_powered_off_is_a_warning_and_resumes_with_its_partition(user, fed):
    """What an operator does with `onevm poweroff` and `onevm resume`, to a machine with real Flower in it."""
    found = daemon.find(user.home)
    cloud = Cloud(Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True), None)
    before = next(vm for vm in user.show(fed)["vms"] if vm["role"] == "supernode")
    try:
        cloud.core.act_on_vm(before["id"], "poweroff")
        until(lambda: user.show(fed)["state"] == "WARNING", 20, "the warning")
        assert user.processes(before["id"]) == []
        cloud.core.act_on_vm(before["id"], "resume")
    finally:
        cloud.close()
    until(lambda: user.is_ready(fed), 60, "its return")
    after = next(vm for vm in user.show(fed)["vms"] if vm["id"] == before["id"])
    assert (after["partition"], after["node_id"]) == (before["partition"], before["node_id"])
