"""Packets that disappear without a word, for real: in a network of its own, whose packets nftables drops.

It is worth its seconds because only the kernel decides when a connection is dead. It waits for seconds there, where a
SuperNode and a SuperLink wait for half a minute, and nothing else is different.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import socket, subprocess, sys, threading, time
from oneflower_appliance.flower import serving, wires

def run(*command):
    subprocess.run(command, check=True)

run("ip", "link", "set", "lo", "up")
short = {socket.TCP_USER_TIMEOUT: 2000, socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1}
wires.OPTIONS = tuple((level, name, short.get(name, value) if level == socket.IPPROTO_TCP else value)
                      for level, name, value in wires.OPTIONS)
entrance = serving.fleet_entrance(serving.listen(("127.0.0.1", 0)), None)
entrance.listener.listen()

def pair():
    client = socket.create_connection(entrance.listener.getsockname())
    wires.notice_death(client)
    return client, entrance.listener.accept()[0]

(waiting, waited_for), (asking, _), (_, answering), (plain, _) = pairs = [pair() for _ in range(4)]
for _, name, _ in wires.OPTIONS:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
run("nft", "add table inet gone; add chain inet gone drops { type filter hook input priority 0; policy drop; }")
began, died = time.monotonic(), {}

def watch(name, wire):
    wire.settimeout(6)
    try:
        wire.recv(1)
    except OSError as error:
        died[name] = type(error).__name__, time.monotonic() - began

for wire in (asking, answering, plain):
    wire.send(b"x")
threads = [threading.Thread(target=watch, args=pair) for pair in (
    ("waiting", waiting), ("asking", asking), ("answering", answering), ("waited for", waited_for), ("plain", plain))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name, (error, seconds) in died.items():
    assert error == "TimeoutError" and (seconds > 5 if name == "plain" else seconds < 5), died
print(sorted(died))
"""


def test_a_connection_whose_packets_disappear_ends_at_either_end_whether_it_waits_or_sends():
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "['answering', 'asking', 'plain', 'waited for', 'waiting']\n", done.stderr
