"""What a service's document and its VMs tell of a federation."""

from __future__ import annotations

from datetime import date

import pytest

from oneflower.cloud.status import read_status

TODAY = date(2027, 1, 1)


class Vm:
    """A running VM that published something."""

    state, lcm_state, ip = 3, 3, "10.0.0.1"

    def __init__(self, number, **attributes):
        self.id, self.name, self.attributes = number, f"vm_{number}_(service_1)", {"READY": "YES", **attributes}


def status(nodes, settings=None, **link):
    """Return the status of a SuperLink, VM 1, and `nodes`, the attributes of SuperNodes from VM 2 on."""
    vms = {1: Vm(1, FL_CONTROL_ENDPOINT="127.0.0.1:8000", **link)} | {
        number: Vm(number, **values) for number, values in enumerate(nodes, 2)
    }
    roles = [("superlink", [1]), ("supernode", [number for number in vms if number > 1])]
    body = {
        "state": 2,
        "user_inputs_values": settings or {},
        "roles": [
            {"name": name, "state": 2, "cardinality": len(found), "nodes": [{"deploy_id": vm} for vm in found]}
            for name, found in roles
        ],
    }
    return read_status(1, "lab", body, vms, (), TODAY)


def share(*parts, settings=None, **more):
    return status([{"FL_PARTITION_ID": i, "FL_NUM_PARTITIONS": n, **more} for i, n in parts], settings).share


def test_what_takes_part_after_scaling_down_is_said_in_one_line():
    assert share(("8", "10"), ("9", "10")) == "Only partitions 8 and 9 of 10 take part: 20% of the data."
    assert (
        share(("10", "12"), ("9", "12"), ("2", "12")) == "Only partitions 2, 9 and 10 of 12 take part: 25% of the data."
    )
    assert share(("1", "2")) == "Only partition 1 of 2 takes part: 50% of the data."


@pytest.mark.parametrize(
    "found",
    [
        share(),
        share(("0", "2"), ("1", "2")),
        share(("0", "10"), ("1", "2")),
        share(("1", "2"), settings={"FL_NODE_CONFIG": "partition-id=1"}),
        share(("1", "2"), settings={"FL_DATA_PATH": "/data"}),
        share(("1", "2"), FL_OWN_DATA="YES"),
        status([{}]).share,
    ],
)
def test_nothing_is_said_where_all_data_takes_part_or_nobody_computed_partitions(found):
    assert found == ""


def test_a_node_that_is_not_let_in_is_named_with_the_reason():
    found = status([{}, {}], FL_REFUSED="2:ab:taken 3::invalid 9:cd:spent").remarks
    assert found == (
        "vm_2 (VM 2): it published a key that belongs to another VM of this federation.",
        "vm_3 (VM 3): it published a key that is not valid: base64 of a PEM, elliptic curve P-256, P-384 or P-521.",
    )
    assert status([{}], FL_REFUSED="\x1b[31m2:ab:evil").remarks == ()


def test_certificates_that_end_soon_are_told():
    assert status([{}], FL_CERT_EXPIRES="2027-02-01").remarks == ()
    [told] = status([{}], FL_CERT_EXPIRES="2027-01-10").remarks
    assert told.startswith("The SuperLink's certificates end in 9 days, on 2027-01-10")
    for nothing in ("-", "soon", ""):
        assert status([{}], FL_CERT_EXPIRES=nothing).remarks == ()
