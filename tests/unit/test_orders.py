"""What the agent tells Flower's processes arrives as it was meant, and becomes Flower's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneflower_appliance.flower.commands import superlink_arguments, supernode_arguments
from oneflower_appliance.orders import CertificateFiles, SuperLinkOrders, SuperNodeOrders

FILES = CertificateFiles(Path("/t/ca.crt"), Path("/t/server.pem"), Path("/t/server.pem"))


@pytest.mark.parametrize("certificates", [None, FILES])
def test_orders_of_a_superlink_arrive(certificates):
    orders = SuperLinkOrders(
        ("10.0.0.1", 9092), ("127.0.0.1", 8000), Path("/var/state.db"), Path("/var/runs"), certificates, True, 512
    )
    assert "\n" not in orders.line()
    assert SuperLinkOrders.read(orders.line()) == orders
    arguments = superlink_arguments(orders)
    assert arguments[:4] == ["--host", "127.0.0.1", "--port", "8000"]
    assert ("--insecure" in arguments) is (certificates is None)
    assert ("--ssl-keyfile" in arguments) is (certificates is not None)


def test_orders_of_a_supernode_arrive():
    orders = SuperNodeOrders(
        "10.0.0.1:9092",
        ("127.0.0.1", 9094),
        Path("/t/ca.crt"),
        Path("/t/node.key"),
        Path("/t/report"),
        {"data-path": "/a b"},
        "17",
        3,
        60,
    )
    assert "\n" not in orders.line()
    assert SuperNodeOrders.read(orders.line()) == orders
    arguments = supernode_arguments(orders)
    assert arguments[arguments.index("--node-config") + 1] == 'data-path="/a b"'
    assert arguments[-4:] == ["--max-retries", "3", "--max-wait-time", "60"]
    plain = SuperNodeOrders("10.0.0.1:9092", ("127.0.0.1", 9094), None, None, Path("/t/report"))
    assert SuperNodeOrders.read(plain.line()) == plain
    assert supernode_arguments(plain)[-1] == "--insecure"
