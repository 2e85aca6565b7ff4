"""Why a process of Flower's ended, told by its exit status: with the real command of a SuperNode."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import logging
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.ending import REFUSALS, Watch, ending_of
from oneflower_appliance.orders import Ending, NodeReport, SuperNodeOrders

ADDRESS = "127.0.0.1"


@pytest.fixture
def supernode(tmp_path):
    """Return a way to start a SuperNode's process with a SuperLink that answers each request with one answer."""
    servers = []
    made = tls.make_certificates(tmp_path / "link", [("IP", ADDRESS)])

    def start(status, body, ca=made.ca, path=f"{Path(sys.executable).parent}:{os.defpath}"):
        class Answer(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = http.server.ThreadingHTTPServer((ADDRESS, 0), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with socket.socket() as free:
            free.bind((ADDRESS, 0))
            listen = free.getsockname()
        key = NodeKey.of(tmp_path / "node.key").path
        orders = SuperNodeOrders(
            f"{ADDRESS}:{server.server_port}", listen, ca, key, tmp_path / "report.json", max_retries=1
        )
        command = [sys.executable, "-m", "oneflower_appliance.flower.main", "supernode", "--parent", str(os.getpid())]
        environment = (
            os.environ
            | {"PATH": path}
            | {
                "FLWR_HOME": str(tmp_path),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
            }
        )
        output = tmp_path / "output"  # not a pipe, which what the process started may hold open
        with output.open("w") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=stream, stderr=stream, env=environment, cwd=tmp_path, text=True,
                start_new_session=True,
            )  # fmt: skip
        try:
            process.stdin.write(orders.line() + "\n")
            process.stdin.close()
            return process.wait(90), output.read_text()[-3000:]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.e2e
def test_a_supernode_whose_signature_is_refused_ends_with_a_status_that_says_so(supernode, tmp_path):
    status, output = supernode(401, b'{"detail": "in whatever words"}')
    assert status == Ending.REFUSED, output
    assert NodeReport.read(tmp_path / "report.json") is None


@pytest.mark.e2e
@pytest.mark.parametrize("code", REFUSALS)
def test_a_supernode_whose_key_is_not_known_ends_with_a_status_that_says_so(supernode, code):
    status, output = supernode(412, json.dumps({"code": code, "detail": "in whatever words"}).encode())
    assert status == Ending.REFUSED, output


@pytest.mark.e2e
def test_a_supernode_that_does_not_trust_its_superlink_ends_with_a_status_that_says_so(supernode, tmp_path):
    other = tls.make_certificates(tmp_path / "other", [("IP", ADDRESS)])
    status, output = supernode(200, b"", ca=other.ca)
    assert status == Ending.UNTRUSTED, output


@pytest.mark.e2e
def test_what_is_wrong_otherwise_is_said_by_the_last_line_only(supernode):
    status, output = supernode(
        400, json.dumps({"code": 2003, "detail": "401 Unauthorized, No space left on device"}).encode()
    )
    assert status == 1, output


@pytest.mark.e2e
def test_a_process_of_flower_that_raises_ends_though_its_threads_would_keep_it(supernode, tmp_path):
    status, output = supernode(401, b"", path=str(tmp_path))
    assert (status, "No such file or directory: 'flower-superexec'" in output) == (1, True), output


def test_the_codes_of_refusals_are_flowers():
    codes = internals.error_codes()
    assert REFUSALS == (codes.FLEET_SUPERNODE_REGISTRATION_DISABLED, codes.FLEET_NODE_ACTIVATION_FAILED)


def after(error, cause):
    error.__context__ = cause
    return error


def a_full_database(tmp_path):
    try:
        sqlite3.connect(tmp_path / "no such folder" / "state.db")
    except sqlite3.Error as error:
        return error
    raise AssertionError


def test_an_exception_means_what_led_to_it(tmp_path):
    database = a_full_database(tmp_path)
    assert ending_of(after(RuntimeError("wrapped"), database)) is Ending.NO_STATE
    assert ending_of(after(SystemExit(1), OSError(errno.ENOSPC, "full"))) is Ending.NO_STATE
    assert ending_of(OSError(errno.EADDRINUSE, "taken")) is Ending.ADDRESS_TAKEN
    assert ending_of(after(httpx.ConnectError("x"), ssl.SSLCertVerificationError("x"))) is Ending.UNTRUSTED
    assert ending_of(RuntimeError("Errno 98: No space left on device; 401 Unauthorized")) is None


def test_what_flower_logs_as_an_exception_counts_for_a_while(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch()
    record = logging.LogRecord("flwr", logging.ERROR, "x", 1, OSError(errno.ENOSPC, "full"), (), None)
    watch.emit(record)
    assert watch.recent is Ending.NO_STATE
    now[0] += 60
    assert watch.recent is None
    watch.emit(logging.LogRecord("flwr", logging.ERROR, "x", 1, "No space left on device", (), None))
    assert watch.recent is None
