"""The proxy of a SuperNode (FL_PROXY): how it is written, asked and named in errors, and that its password shows nowhere."""

import socket
import threading

import certifi
import pytest

from oneflower.opennebula.inputs import merge_template
from oneflower.opennebula.service import ServiceOptions, service_template
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.orders import SuperNodeOrders
from oneflower_appliance.proxy import Proxy, ProxyError
from oneflower_appliance.settings import Bounds, InvalidParametersError, resolve

TEXT = "http://north:p%40ss%3Aword@proxy.north:3128"


@pytest.fixture
def proxy():
    """A function that makes a proxy which gives one answer, and returns it with the list of what it is asked."""
    served = []

    def answering(answer):
        listener = socket.create_server(("127.0.0.1", 0))
        asked = []

        def serve():
            with listener, listener.accept()[0] as connection:
                asked.append(connection.recv(4096).decode())
                connection.sendall(answer)

        served.append(threading.Thread(target=serve))
        served[-1].start()
        return Proxy("127.0.0.1", listener.getsockname()[1], "north", "p@ss:word"), asked

    yield answering
    for thread in served:
        thread.join()


def test_a_tunnel_is_asked_for_with_the_password_in_one_header(proxy):
    it, asked = proxy(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nwhat follows")
    with it.open("superlink.example.org", 443, 5) as wire:
        assert wire.recv(100) == b"what follows"
    assert asked[0].splitlines()[:3] == [
        "CONNECT superlink.example.org:443 HTTP/1.1",
        "Host: superlink.example.org:443",
        "Proxy-Authorization: Basic bm9ydGg6cEBzczp3b3Jk",
    ]


@pytest.mark.parametrize(
    ("answer", "why", "hint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required", "password"),
        (b"HTTP/1.0 403 Access violation\r\n\r\n", "403 Access violation", "443"),
        (b"HTTP/1.1 502 \r\n\r\n", "opens no way to h:1: 502", "Check FL_PROXY"),
        (b"220 smtp.example.org\r\n", "not an HTTP proxy", "Check FL_PROXY"),
        (b"", "not an HTTP proxy", "Check FL_PROXY"),
    ],
)
def test_a_refusal_is_a_sentence_without_the_password(proxy, answer, why, hint):
    it, _ = proxy(answer)
    with pytest.raises(ProxyError, match=why) as refused:
        it.open("h", 1, 5)
    assert hint in refused.value.hint
    assert "ss:word" not in f"{refused.value}{refused.value.hint}{it!r}"


def test_a_proxy_that_is_not_there_is_named_to_the_agent_too():
    with pytest.raises(OSError, match=r"the proxy 127\.0\.0\.1:1 \(FL_PROXY\) does not answer"):
        Probe(certifi.where(), proxy=Proxy("127.0.0.1", 1)).fleet_answers("h:1")


def test_what_is_written_is_what_is_read():
    assert Proxy.parse(TEXT) == Proxy("proxy.north", 3128, "north", "p@ss:word")
    assert Proxy.parse("http://[::1]:8080/").address == "[::1]:8080"
    assert Proxy.parse("http://proxy:8080").headers == {}


def test_the_password_is_in_no_error_and_in_no_text_of_orders():
    with pytest.raises(InvalidParametersError) as refused:
        resolve({"FL_PROXY": "ftp://me:geheim@proxy:1"})
    assert "geheim" not in refused.value.sentence
    assert "FL_PROXY" in refused.value.sentence
    with pytest.raises(InvalidParametersError, match="needs TLS"):
        resolve({"FL_PROXY": TEXT, "FL_TLS_ENABLED": "NO", "FL_SUPERNODE_AUTH": "NO"})
    orders = SuperNodeOrders("h:1", ("127.0.0.1", 1), None, None, "report", proxy=TEXT)
    assert "ss%3Aword" not in repr(orders)
    assert SuperNodeOrders.read(orders.line()).proxy == TEXT


def test_the_password_reaches_the_supernodes_and_no_attribute_that_other_machines_read():
    given = resolve({"FL_PROXY": TEXT}, bounds=Bounds())
    merged = merge_template(service_template(ServiceOptions()), "lab", given, Bounds())
    superlink, nodes = merged["roles"]
    assert nodes.pop("template_contents") == {"CONTEXT": {"FL_PROXY": TEXT}}
    assert "FL_PROXY" not in str([merged["user_inputs_values"], superlink, nodes])
