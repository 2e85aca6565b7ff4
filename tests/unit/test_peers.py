"""Who owns the other end of a connection: real sockets, some of another user."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from pathlib import Path

import pytest

from oneflower_appliance import peers
from oneflower_appliance.agent.onegate import OneGate, OneGateError

from .strangers import NOBODY, stranger

ADDRESS = "127.77.0.4"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as another user")


@pytest.fixture
def listener():
    with socket.socket() as made:
        made.bind((ADDRESS, 0))
        made.listen()
        yield made


def test_the_kernel_is_asked_who_is_at_the_other_end(listener):
    with socket.create_connection(listener.getsockname()) as client:
        assert peers.peer_uid(client.getsockname(), listener.getsockname()) == os.geteuid()
    assert peers.peer_uid((ADDRESS, 1), listener.getsockname()) is None


@pytest.fixture(params=["sock_diag", "tables"])
def only(request, monkeypatch):
    """A kernel that has one of the two ways to tell."""
    if request.param == "tables":
        monkeypatch.delattr(socket, "AF_NETLINK")
    else:
        monkeypatch.setattr(peers, "Path", lambda _: Path("/nowhere"))


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize(
    ("served", "asked"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")]
)
@pytest.mark.parametrize("leave", [socket.socket.close, reset, lambda client: client.shutdown(socket.SHUT_WR)])
def test_both_ways_of_the_kernel_to_tell_say_the_same(served, asked, leave):
    with socket.socket(socket.AF_INET6 if ":" in served else socket.AF_INET) as listener:
        listener.bind((served, 0))
        listener.listen()
        at = listener.getsockname()[:2]
        assert peers.peer_uid(at, (served, 1)) is None, "only listening"
        with socket.create_connection((asked, at[1])) as client:
            waiting = (served, client.getsockname()[1])
            assert peers.peer_uid(at, waiting) is None, "not accepted yet"
            with listener.accept()[0] as accepted:
                assert accepted.getpeername()[:2] == waiting
                assert peers.peer_uid(waiting, at) == peers.peer_uid(at, waiting) == os.geteuid()
                assert peers.peer_uid(waiting, (served, 1)) is None
                leave(client)
                select.select([accepted], [], [], 5)
                assert peers.peer_uid(waiting, at) is None, "hung up"


@needs_root
@pytest.mark.usefixtures("only")
def test_another_users_end_is_told_by_its_number():
    with stranger(ADDRESS, 0) as (port, _), socket.create_connection((ADDRESS, port)) as client:
        until = time.monotonic() + 10
        while (uid := peers.peer_uid((ADDRESS, port), client.getsockname())) is None:
            assert time.monotonic() < until
        assert uid == NOBODY


def test_an_end_that_nobody_holds_is_nobodys(listener):
    """The kernel says uid 0 for it, and root is trusted: the inode tells them apart."""
    with socket.create_connection(listener.getsockname()) as client:
        assert peers.peer_uid(listener.getsockname(), client.getsockname()) is None, "not accepted yet"
        accepted, _ = listener.accept()
        assert peers.peer_uid(client.getsockname(), accepted.getsockname()) == os.geteuid()
        client.close()
        assert peers.peer_uid(client_address := accepted.getpeername(), accepted.getsockname()) is None, client_address
        accepted.close()


def test_a_server_is_waited_for_until_it_accepts(listener):
    with socket.create_connection(listener.getsockname()) as client:
        with pytest.raises(peers.StrangerError, match="nobody accepts"):
            peers.check_server(client, 0.05)
        accepted, _ = listener.accept()
        with accepted:
            peers.check_server(client, 5)


@pytest.mark.parametrize("resets", [False, True])
def test_a_server_that_hung_up_is_not_waited_for(listener, resets):
    with socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        (reset if resets else socket.socket.close)(accepted)
        select.select([client], [], [], 5)
        before = time.monotonic()
        with pytest.raises(peers.StrangerError, match="hung up"):
            peers.check_server(client, 60)
        assert time.monotonic() - before < 30


def test_who_listens_is_found_on_the_address_itself_and_on_all_addresses(listener):
    assert peers.listener_uid(listener.getsockname()) == os.geteuid()
    assert peers.listener_uid((ADDRESS, 1)) is None
    for family, everywhere in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        with socket.socket(family) as wide:
            wide.bind((everywhere, 0))
            wide.listen()
            assert peers.listener_uid((ADDRESS, wide.getsockname()[1])) == os.geteuid()


@needs_root
@pytest.mark.parametrize("accepts", [True, False])
def test_a_guest_sends_its_token_to_no_other_user(accepts):
    with stranger(ADDRESS, 0, accepts=accepts) as (port, received):
        assert peers.listener_uid((ADDRESS, port)) == NOBODY
        gate = OneGate(f"http://{ADDRESS}:{port}", "the-secret-token", "7", timeout=0.5)
        for request in (gate.attributes, gate.service, lambda: gate.publish({"READY": "YES"})):
            with pytest.raises(OneGateError, match="uid 65534|nobody accepts") as error:
                request()
            assert error.value.heals
        assert received() == b""


@needs_root
def test_the_stranger_of_these_tests_hears_what_is_sent_without_looking():
    with stranger(ADDRESS, 0) as (port, received), socket.create_connection((ADDRESS, port)) as client:
        client.sendall(b"token")
        assert received() == b"token"
