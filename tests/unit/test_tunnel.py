"""The tunnel to a SuperLink, with the real `ssh` and a real SSH server."""

from __future__ import annotations

import asyncio
import base64
import http.server
import socket
import threading
from pathlib import Path

import asyncssh
import httpx
import pytest

from oneflower.cloud import FederationStatus, VmStatus
from oneflower.cloud.tunnel import SshOptions, tunnel
from oneflower_appliance import superlink
from oneflower_appliance.errors import ExitCode, OneflowerError


class Server:
    """An SSH server on loopback that lets one key in and forwards ports."""

    def __init__(self, folder):
        self.host_key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        client = asyncssh.generate_private_key("ssh-ed25519")
        self.key, self.other_key = folder / "id", folder / "other"
        client.write_private_key(str(self.key))
        other.write_private_key(str(self.other_key))
        for path in (self.key, self.other_key):
            path.chmod(0o600)
        self.allowed = asyncssh.import_authorized_keys(client.export_public_key().decode())
        self.forwarded = []
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        ready.wait(10)

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self):
        outer = self

        class Door(asyncssh.SSHServer):
            def connection_requested(self, dest_host, dest_port, *_):
                outer.forwarded.append((dest_host, dest_port))
                return True

        options = {"server_host_keys": [self.host_key], "authorized_client_keys": self.allowed}
        self._server = await asyncssh.create_server(Door, "127.0.0.1", 0, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def public(self):
        return " ".join(self.host_key.export_public_key().decode().split()[:2])

    def close(self):
        async def end():
            self._server.close()
            await self._server.wait_closed()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
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
    return FederationStatus(1, "lab", "RUNNING", 2, (link,), control=control, host_keys=keys)


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


def test_a_machine_with_another_host_key_is_not_spoken_with(server, control):
    foreign = " ".join(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[:2])
    with pytest.raises(OneflowerError, match="is not the machine that it should be") as caught:
        tunnel(status(control, foreign), options(server)).__enter__()
    assert caught.value.code is ExitCode.CONFLICT
    assert server.forwarded == []


def test_a_key_that_is_not_let_in_is_one_sentence(server, control):
    with pytest.raises(OneflowerError, match="root@127.0.0.1 does not let us in"):
        tunnel(status(control, server.public), options(server, server.other_key)).__enter__()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (status("127.0.0.1:8000"), "published no SSH host key"),
        (status("", "ssh-ed25519 AAAA"), "no SuperLink that is ready"),
        (FederationStatus(1, "lab", "DEPLOYING", 2), "no SuperLink that is ready"),
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
    monkeypatch.setenv("ONEFLOWER_SSH_USER", "debian")
    monkeypatch.setenv("ONEFLOWER_SSH_PORT", "2222")
    monkeypatch.setenv("ONEFLOWER_SSH_KEY", "/keys/id")
    assert SshOptions.of_environment() == SshOptions("debian", 2222, Path("/keys/id"))
    monkeypatch.setenv("ONEFLOWER_SSH_PORT", "ssh")
    with pytest.raises(OneflowerError, match="is no port"):
        SshOptions.of_environment()


def test_a_superlink_publishes_the_public_host_keys_of_its_machine(tmp_path):
    (tmp_path / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAAC3 root@vm\n")
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa AAAAB3 root@vm\n")
    (tmp_path / "ssh_host_ed25519_key").write_text("SECRET")
    (tmp_path / "ssh_host_bad_key.pub").write_text("")
    assert superlink._host_keys(tmp_path) == "ssh-ed25519 AAAAC3\nssh-rsa AAAAB3"
    assert base64.b64encode(superlink._host_keys(tmp_path).encode()), "free of what OneGate breaks"
    assert superlink._host_keys(tmp_path / "nowhere") == ""
