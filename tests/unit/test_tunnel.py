"""The tunnel to a SuperLink, with the real `ssh` and a real SSH server."""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import asyncssh
import httpx
import pytest

from oneflower import clouds
from oneflower.cloud import FederationStatus, VmStatus
from oneflower.cloud.tunnel import SshOptions, tunnel
from oneflower_appliance.agent.host_keys import host_keys
from oneflower_appliance.errors import ExitCode, OneflowerError

from .ssh import SshServer


@pytest.fixture
def server(tmp_path):
    made = SshServer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def control():
    """What listens on the SuperLink's loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the control API")

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def status(control, *keys):
    link = VmStatus(1, "superlink_0", "superlink", "running", True, "127.0.0.1")
    return FederationStatus(1, "lab", "RUNNING", 2, vms=(link,), control=control, host_keys=keys)


def options(server, key=None):
    return SshOptions("root", server.port, key or server.key)


def test_what_is_asked_at_one_end_is_answered_at_the_other_and_nothing_stays(server, control):
    with tunnel(status(control, server.public), options(server)) as address:
        host, port = address.split(":")
        assert host == "127.0.0.1"
        assert httpx.get(f"http://{address}", trust_env=False).text == "the control API"
    assert server.forwarded[-1] == ("127.0.0.1", int(control.split(":")[1]))
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0, "the tunnel is closed"


def test_a_machine_that_boots_again_is_reached_again(server, control):
    with tunnel(status(control, server.public), options(server)) as address:
        assert httpx.get(f"http://{address}", trust_env=False).text == "the control API"
        server.drop()
        before = len(server.forwarded)
        deadline = time.monotonic() + 20
        while not answers(address) or len(server.connections) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(server.forwarded) > before


def answers(address):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{address}", trust_env=False).text == "the control API"
    return False


def test_a_container_of_the_local_cloud_is_reached_as_a_machine_of_opennebula_is(
    server, control, monkeypatch, tmp_path
):
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ONEFLOWER_SSH_PORT", str(server.port))
    here = clouds.LocalSurroundings()
    asked = {"SSH_PUBLIC_KEY": ""}
    core = SimpleNamespace(own_settings=lambda: asked, set_user_attribute=asked.__setitem__)
    found = SimpleNamespace(image=None)
    monkeypatch.setattr("oneflower.local.daemon.find", lambda _home: found)
    with here.reach(status(control, server.public)) as address:
        assert address == control, "the loopback of a process is this machine's"
    found.image = "/srv/root"
    here.home.make()
    here.provide_ssh_key(SimpleNamespace(core=core))
    assert asked["SSH_PUBLIC_KEY"].startswith("ssh-ed25519 ")
    assert here.home.ssh_key.stat().st_mode & 0o777 == 0o600
    server.allow(asked["SSH_PUBLIC_KEY"])
    with here.reach(status(control, server.public)) as address:
        assert address != control
        assert httpx.get(f"http://{address}", trust_env=False).text == "the control API"
    before = asked["SSH_PUBLIC_KEY"]
    here.provide_ssh_key(SimpleNamespace(core=core))
    assert asked["SSH_PUBLIC_KEY"] == before, "the key that a user has chosen stays"


def test_a_machine_with_another_host_key_is_not_spoken_with(server, control):
    foreign = " ".join(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[:2])
    with pytest.raises(OneflowerError, match="is not the expected machine") as caught:
        tunnel(status(control, foreign), options(server)).__enter__()
    assert caught.value.code is ExitCode.CONFLICT
    assert server.forwarded == []


def test_a_key_that_is_notlet_in_is_one_sentence(server, control):
    with pytest.raises(OneflowerError, match="root@127.0.0.1 refuses the SSH login"):
        tunnel(status(control, server.public), options(server, server.other_key)).__enter__()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (status("127.0.0.1:8000"), "published no SSH host key"),
        (status("", "ssh-ed25519 AAAA"), "says that it is ready but not where its Control API is"),
        (FederationStatus(1, "lab", "DEPLOYING", 2), "no SuperLink that is ready: it has no machine yet"),
    ],
)
def test_without_a_superlink_that_can_be_told_apart_there_is_no_tunnel(given, text):
    with pytest.raises(OneflowerError, match=text):
        tunnel(given, SshOptions()).__enter__()


def test_a_machine_that_is_not_there_is_one_sentence(server, control):
    server_gone = SshOptions("root", 9, server.key)
    with pytest.raises(OneflowerError, match="No SSH tunnel to root@127.0.0.1: .*Connection refused"):
        tunnel(status(control, server.public), server_gone).__enter__()


def test_options_come_from_the_environment(monkeypatch):
    assert SshOptions.of_environment() == SshOptions("root", 22, None)
    assert SshOptions().login("10.0.0.7") == "ssh root@10.0.0.7"
    monkeypatch.setenv("ONEFLOWER_SSH_USER", "debian")
    monkeypatch.setenv("ONEFLOWER_SSH_PORT", "2222")
    monkeypatch.setenv("ONEFLOWER_SSH_KEY", "/keys/id")
    assert SshOptions.of_environment() == SshOptions("debian", 2222, Path("/keys/id"))
    assert SshOptions.of_environment().login("10.0.0.7") == "ssh -p 2222 -i /keys/id debian@10.0.0.7"
    monkeypatch.setenv("ONEFLOWER_SSH_PORT", "ssh")
    with pytest.raises(OneflowerError, match="is not a valid port"):
        SshOptions.of_environment()


def test_a_superlink_publishes_the_public_host_keys_of_its_machine(tmp_path):
    (tmp_path / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAAC3 root@vm\n")
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa AAAAB3 root@vm\n")
    (tmp_path / "ssh_host_ed25519_key").write_text("SECRET")
    (tmp_path / "ssh_host_bad_key.pub").write_text("")
    assert host_keys(tmp_path) == "ssh-ed25519 AAAAC3\nssh-rsa AAAAB3"
    assert base64.b64encode(host_keys(tmp_path).encode()), "free of what OneGate breaks"
    assert host_keys(tmp_path / "nowhere") == ""
