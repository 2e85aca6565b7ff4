"""The client against clouds that are half up, misconfigured, or not a cloud at all."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time

import pytest

from oneflower.cloud import Cloud, Endpoints, Federation, Limits, RefusedError, opennebula_endpoints
from oneflower.cloud.outages import USUAL
from oneflower.cloud.refused import UnreachableError
from oneflower.cloud.tunnel import SshOptions
from oneflower.clouds import OpenNebulaSurroundings
from oneflower_appliance.agent import tls
from oneflower_appliance.errors import ExitCode, OneflowerError

SURROUNDINGS = OpenNebulaSurroundings("oneflower", SshOptions())


@contextlib.contextmanager
def server(status, body, kind="text/plain", context=None):
    """Answer every request in the same way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_):
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    made = Quiet(("127.0.0.1", 0), Handler)
    if context:
        made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()


@contextlib.contextmanager
def cloud(url, limits=USUAL):
    made = Cloud(Endpoints(url, f"{url}/RPC2", "me:pass:word", direct=True), SURROUNDINGS, limits=limits)
    try:
        yield made
    finally:
        made.close()


HTML = "<html><body><h1>504 Gateway Time-out</h1></body></html>"


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, "Invalid credentials", "OneFlow answered 401: Invalid credentials\nCheck user and password"),
        (401, "[one.document.info] User [2] : Not authorized to perform USE DOCUMENT [60].", "may use the object"),
        (403, "User couldn't be authenticated, aborting call.", "Check user and password"),
        (500, "Service cannot be scaled in state: WARNING", "OneFlow answered 500: Service cannot be scaled"),
        (500, json.dumps({"message": "Internal server error", "reason": "undefined method"}), "500: undefined method"),
        (500, "User [2] : VM quota limit of 4 reached", "larger quota"),
        (502, HTML, "502: a page of HTML, from a proxy or another server\nOpenNebula is starting"),
        (504, HTML, "504: a page of HTML, from a proxy or another server\nOpenNebula is busy"),
        (200, HTML, "gave an answer that OpenNebula would not give"),
        (200, "{}", "gave an answer that OpenNebula would not give"),
        (200, "", "gave an answer that OpenNebula would not give"),
        (200, '{"DOCUMENT_POOL": 3}', "gave an answer that OpenNebula would not give"),
    ],
)
def test_what_oneflow_says_becomes_one_sentence(status, body, text):
    with server(status, body) as url, cloud(url) as made:
        with pytest.raises(OneflowerError) as caught:
            list(Federation.all(made))
        assert text in str(caught.value)
        assert caught.value.code is ExitCode.CLOUD
        assert "pass:word" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (504, HTML, "OpenNebula answered 504"),
        (200, HTML, "gave an answer that OpenNebula would not give"),
        (200, "", "gave an answer that OpenNebula would not give"),
    ],
)
def test_what_the_core_says_becomes_one_sentence(status, body, text):
    with server(status, body, "text/xml") as url, cloud(url) as made:
        with pytest.raises(OneflowerError) as caught:
            made.core.vm_templates()
        assert text in str(caught.value)


def test_a_service_that_is_gone_is_none_and_other_refusals_are_not():
    with server(404, "[one.document.info] Error getting document [7].") as url, cloud(url) as made:
        assert made.oneflow.service(7) is None
    with server(500, "[DocumentInfo] Error getting document [7].") as url, cloud(url) as made:
        with pytest.raises(RefusedError) as caught:
            made.oneflow.service(7)
        assert caught.value.status == 500


def test_nobody_there_is_one_sentence_for_both_servers():
    with cloud("http://127.0.0.1:9") as made:
        with pytest.raises(OneflowerError, match=r"OneFlow at http://127.0.0.1:9 cannot be reached.*\n.*ONEFLOW_URL"):
            made.oneflow.services()
        with pytest.raises(OneflowerError, match=r"OpenNebula at .* cannot be reached(.|\n)*ONE_XMLRPC"):
            made.core.vm_templates()


def test_a_server_that_hangs_up_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with cloud(f"http://127.0.0.1:{listener.getsockname()[1]}") as made:
            with pytest.raises(OneflowerError, match="cannot be reached"):
                made.oneflow.services()
            with pytest.raises(OneflowerError, match="cannot be reached"):
                made.core.vm_templates()
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def listener(serve):
    """Hand every connection to `serve`, in a thread of its own, and end them all at the end."""
    threads, connections = [], []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def handle(connection):
            with connection, contextlib.suppress(OSError):
                serve(connection)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])
                    threads.append(threading.Thread(target=handle, args=connections[-1:]))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()


def silent(connection):
    """Read, and say nothing."""
    while connection.recv(65536):
        pass


def drip(connection):
    """Send a byte of a good answer now and then: each byte is in time."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 100000\r\n\r\n" + b" " * 100000:
        connection.send(bytes([byte]))
        time.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.parametrize("serve", [silent, drip])
@pytest.mark.parametrize(
    "call",
    [
        lambda made: made.oneflow.services(),
        lambda made: made.core.vm_templates(),
        lambda made: made.core.create_vm_template("NAME=x"),
    ],
)
def test_a_server_that_accepts_and_does_not_answer_is_not_waited_for_for_ever(serve, call):
    with listener(serve) as url, cloud(url, Limits(silence=1, answer=2)) as made:
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="cannot be reached") as caught:
            call(made)
        assert time.monotonic() - started < 20
        assert caught.value.asked, "the server may have acted upon it"


def test_other_sockets_of_the_program_keep_their_own_time_outs():
    with server(200, "", "text/xml") as url, cloud(url) as made, contextlib.suppress(OneflowerError):
        made.core.vm_templates()
    assert socket.getdefaulttimeout() is None


def answering(port, body):
    """Begin to answer at a port where nobody listened."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    return made


def test_who_waits_for_a_cloud_waits_through_its_outage_and_is_told_so():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said, servers = [], []

    def tell(text):
        said.append(text)
        if not servers:
            servers.append(answering(port, b'{"DOCUMENT_POOL":{}}'))

    made = Cloud(
        Endpoints(f"http://127.0.0.1:{port}", "http://127.0.0.1:9", "me:pass", direct=True),
        SURROUNDINGS,
        tell,
        Limits(pause=0.05),
    )
    with pytest.raises(UnreachableError):
        made.oneflow.services()
    assert said == [], "without patience it is an error at once"
    with made.patient():
        assert made.oneflow.services() == []
    assert "cannot be reached" in said[0]
    assert "Waiting up to 60 s" in said[0]
    assert "answers again" in said[1]
    made.close()
    servers[0].shutdown()
    servers[0].server_close()


def test_an_outage_that_lasts_is_an_error():
    with cloud("http://127.0.0.1:9", Limits(outage=0.3, pause=0.01)) as made, made.patient():
        for call in (made.oneflow.services, made.core.vm_templates, lambda: made.oneflow.delete_service(3)):
            with pytest.raises(UnreachableError, match="cannot be reached"):
                call()


def test_what_changes_something_is_not_asked_twice_if_it_may_have_got_through():
    asked = []

    def hang_up(connection):
        asked.append(connection.recv(4096)[:6])

    with listener(hang_up) as url, cloud(url, Limits(pause=0.01)) as made, made.patient():
        with pytest.raises(UnreachableError):
            made.oneflow.delete_service(3)
        with pytest.raises(UnreachableError):
            made.core.act_on_vm(3, "terminate-hard")
    assert asked == [b"DELETE", b"POST /"]


def test_a_certificate_that_nobody_knows_is_not_trusted(tmp_path, monkeypatch):
    made_here = tls.make_certificates(tmp_path, [("IP", "127.0.0.1")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made_here.certificate, made_here.key)
    with server(200, '{"DOCUMENT_POOL":{}}', context=context) as url:
        with cloud(url) as made:
            for call in (made.oneflow.services, made.core.vm_templates):
                with pytest.raises(OneflowerError, match="certificate that is not trusted here") as caught:
                    call()
                assert "SSL_CERT_FILE" in caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(made_here.ca))
        known = Cloud(Endpoints(url, url, "me:pass"), SURROUNDINGS)
        assert known.oneflow.services() == []
        known.close()


def test_a_server_without_tls_is_unreachable_and_its_certificate_is_not_blamed():
    with server(200, "{}") as url, cloud(url.replace("http:", "https:")) as made:
        for call in (made.oneflow.services, made.core.vm_templates):
            with pytest.raises(UnreachableError, match="cannot be reached"):
                call()


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("ONE_AUTH", "ONEFLOW_URL", "ONE_XMLRPC", "ONEFLOW_USER", "ONEFLOW_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".one").mkdir()
    return tmp_path / ".one"


def test_credentials_and_addresses_are_found_as_opennebulas_own_tools_find_them(home, monkeypatch, tmp_path):
    with pytest.raises(OneflowerError, match="No OpenNebula credentials") as caught:
        opennebula_endpoints()
    assert caught.value.code is ExitCode.CLOUD
    (home / "one_auth").write_text("alice:pass:wo:rd\n")
    found = opennebula_endpoints()
    assert found.login == ("alice", "pass:wo:rd")
    assert (found.oneflow, found.xmlrpc) == ("http://localhost:2474", "http://localhost:2633/RPC2")
    assert "pass" not in repr(found)
    (home / "oneflow_endpoint").write_text("http://front:2474/\n")
    (home / "one_endpoint").write_text("http://front:2633/RPC2\n")
    assert (opennebula_endpoints().oneflow, opennebula_endpoints().xmlrpc) == (
        "http://front:2474",
        "http://front:2633/RPC2",
    )
    monkeypatch.setenv("ONEFLOW_URL", "https://cloud/flow")
    assert opennebula_endpoints().oneflow == "https://cloud/flow"
    other = tmp_path / "auth"
    other.write_text("bob:secret\n")
    monkeypatch.setenv("ONE_AUTH", str(other))
    assert opennebula_endpoints().login == ("bob", "secret")
    monkeypatch.setenv("ONEFLOW_USER", "carol")
    monkeypatch.setenv("ONEFLOW_PASSWORD", "x")
    assert opennebula_endpoints().login == ("carol", "x")
    monkeypatch.setenv("ONE_XMLRPC", "localhost:2633")
    with pytest.raises(OneflowerError, match="ONE_XMLRPC is 'localhost:2633', which is not a URL"):
        opennebula_endpoints()


@pytest.mark.parametrize("line", ["", "alice", "alice:", ":secret", "\xff\xfe"])
def test_a_file_without_credentials_is_named(home, line):
    (home / "one_auth").write_bytes(line.encode("latin-1"))
    with pytest.raises(OneflowerError, match="one_auth has no line"):
        opennebula_endpoints()
