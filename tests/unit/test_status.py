"""What a service's document and its VMs say about a federation."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneflower.cli import rounds, screen, shown
from oneflower.cli.session import Session
from oneflower.cloud import Federation
from oneflower.cloud.diagnosis import causes
from oneflower.cloud.reading import read_status
from oneflower.cloud.tunnel import SshOptions
from oneflower.clouds import OpenNebulaSurroundings
from oneflower_appliance import __version__

NOW = datetime(2027, 1, 1, tzinfo=UTC)


class Vm:
    """A running VM that published something."""

    state, lcm_state, ip, booted = 3, 3, "10.0.0.1", 0

    def __init__(self, number, **attributes):
        self.id, self.short_name, self.attributes = number, f"vm_{number}", {"READY": "YES", **attributes}


def status(nodes, settings=None, **link):
    """Return the status of a SuperLink, VM 1, and `nodes`, the attributes of SuperNodes from VM 2 on."""
    vms = {1: Vm(1, **{"FL_CONTROL_ENDPOINT": "127.0.0.1:8000", **link})} | {
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
    return read_status(1, "lab", body, vms, (), NOW)


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


def test_a_machine_that_boots_again_is_not_ready_because_it_was_before():
    now, vm = int(NOW.timestamp()), Vm(1, FL_READY_TIME=str(int(NOW.timestamp()) - 10))

    def seen(booted):
        vm.booted = booted
        body = {"state": 2, "roles": [{"name": "superlink", "state": 2, "cardinality": 1, "nodes": [{"deploy_id": 1}]}]}
        body["roles"].append({"name": "supernode", "state": 2, "cardinality": 0, "nodes": []})
        [found] = read_status(1, "lab", body, {1: vm}, (), NOW).vms
        return found.ready, found.ready_since

    ready = (True, now - 10)
    assert seen(0) == seen(now - 60) == seen(now - 10) == ready
    assert seen(now - 5) == (False, 0)
    vm.attributes["FL_READY_TIME"] = str(now - 600)
    assert seen(now - 300)[0], "its clock is wrong"
    del vm.attributes["FL_READY_TIME"]
    assert seen(now - 5) == (True, 0), "an image of an earlier release"


def test_features_that_are_off_are_told_once_with_the_machines_that_lack_them():
    lines = ("The shortcut past Flower's middlewares is off, because this release of Flower has no x.y.", "Z is off.")
    both, one = (base64.b64encode("\n".join(some).encode()).decode() for some in (lines, lines[:1]))
    found = status([{"FL_FEATURES_OFF": one}, {"FL_FEATURES_OFF": "-"}], FL_FEATURES_OFF=both).remarks
    assert found == (f"vm_1, vm_2: {lines[0]}", f"vm_1: {lines[1]}")
    assert status([{"FL_FEATURES_OFF": "not base64"}], FL_FEATURES_OFF="-").remarks == ()


def test_another_release_is_told_with_which_is_older_and_what_to_do():
    own = {"FL_RELEASE": __version__}
    assert status([own, own], **own).releases == ()
    assert status([{**own, "READY": "NO"}], READY="NO").releases == ()
    older, newer = status([{"FL_RELEASE": "99.0.1"}, {"FL_RELEASE": "0.0.9"}], FL_RELEASE="0.0.9").releases
    assert older.what == f"vm_1, vm_3: oneflower 0.0.9, older than {__version__} here"
    assert f"register an image of {__version__}" in older.fix
    assert "use oneflower 0.0.9 here" in older.fix
    assert newer.what == f"vm_2: oneflower 99.0.1, newer than {__version__} here"
    assert "Use oneflower 99.0.1 here" in newer.fix


@pytest.mark.parametrize(
    "published", [{}, {"FL_RELEASE": "-"}, {"FL_RELEASE": "\x1b[31m9"}, {"FL_RELEASE": "9" * 99 + "x"}]
)
def test_a_machine_that_tells_no_valid_release_counts_as_older(published):
    [told] = status([], **published).releases
    assert str(told).startswith(f"vm_1: oneflower without a release, older than {__version__} here. An app")


_ATTRIBUTES = (
    "READY", "FL_READY_TIME", "ERROR", "SCHED_MESSAGE", "FL_ENDPOINT", "FL_CONTROL_ENDPOINT", "FL_VERSION", "FL_CA_CERT", "FL_SSH_HOST_KEYS",
    "FL_ERROR", "FL_PARTITION_ID", "FL_NUM_PARTITIONS", "FL_NODE_ID", "FL_OWN_DATA", "FL_REFUSED", "FL_RUN_ID", "FL_RUN_APP",
    "FL_RUN_STATUS", "FL_RUN_ERROR", "FL_RUN_ROWS", "FL_RUN_FAULT", "FL_RUN_FINDINGS", "FL_CERT_EXPIRES", "FL_FEATURES_OFF", "FL_RELEASE",
    "FL_PACKAGES",
)  # fmt: skip
_FAULT = st.fixed_dictionaries(
    {name: st.one_of(st.text(), st.floats(), st.integers(), st.lists(st.none())) for name in ("round", "node", "phase", "kind")}
    | {"reason": st.text()}
)  # fmt: skip
_VALUE = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60),
    st.sampled_from(("YES", "NO", "0", "1", "-1", "2", "\u0665", "9" * 5000, "1e400", "nan", "inf", "NaN", "[" * 3000)),
    st.from_regex(r"([0-9]{1,3}|nan|inf|-)(:([0-9]{1,3}|nan|inf|-)){8}(;.{0,9})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}:[0-9a-f]{2}:(spent|taken|held)", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True),
    st.binary(max_size=40).map(lambda some: base64.b64encode(some).decode()),
    st.sampled_from(("[" * 100_000, '{"round": 1e999}', "[]", "1", "x==" + "9" * 5000)).map(lambda some: base64.b64encode(some.encode()).decode()),
    _FAULT.map(lambda said: base64.b64encode(json.dumps(said).encode()).decode()),
)  # fmt: skip
_PUBLISHED = st.dictionaries(st.sampled_from(_ATTRIBUTES), _VALUE)


def test_a_number_with_thousands_of_digits_is_no_release():
    digits = "9" * 5000
    packages = base64.b64encode(f"numpy=={digits}".encode()).decode()
    found = status([{"READY": "YES", "FL_RELEASE": digits, "FL_PACKAGES": packages}], FL_PACKAGES=packages)
    assert "without a release" in str(found.releases[0])
    assert found.packages == {"numpy": ""}


@settings(suppress_health_check=[HealthCheck.too_slow])  # a machine may be slow
@given(_PUBLISHED, st.lists(_PUBLISHED, max_size=3))
def test_nothing_that_a_vm_publishes_keeps_a_federation_from_being_shown(link, nodes):
    found = status(nodes, **{"FL_RUN_ID": "5", **link})

    class Found:
        """A federation of that status."""

        @staticmethod
        def status():
            return found

        @staticmethod
        def installed(status):
            return OpenNebulaSurroundings("flower", SshOptions()).installed(status)

    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(Session, "cloud", lambda: None)
        patch.setattr(Federation, "find", lambda _cloud, _name: Found)
        patch.setattr(screen, "show", said.append)
        shown.show("lab", screen.Output.TEXT)
        shown.show("lab", screen.Output.JSON)
        table = rounds.RunTable()
        patch.setattr(rounds, "say", said.append)
        patch.setattr(rounds, "warn", said.append)
        for row in found.training.latest if found.training else ():
            table.add(row)
            table.living.text(80)
        table.curve()
    assert said[0].startswith("lab (federation, service 1): RUNNING")
    assert len([text for text in said if "vm_1" in text]) >= 2, "in the table and in JSON"
    as_json = next(text for text in said if text.startswith("{"))
    json.loads(as_json, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("FL_NUM_PARTITIONS", "many"),
        ("FL_PARTITION_ID", "9" * 5000),
        ("FL_ERROR", "\u00e9"),
        ("FL_RUN_ROWS", "1:2:nan:2:0:2:nan:nan:-"),
        ("FL_RUN_FAULT", base64.b64encode(b'{"round": 1e999}').decode()),
        ("FL_RUN_FAULT", base64.b64encode(b"[" * 100_000).decode()),
        ("FL_RUN_FINDINGS", base64.b64encode(b'{"kind": "slow"}').decode()),
        ("FL_RUN_FINDINGS", base64.b64encode(b'[{"node": "7", "kind": "slow"}, 5]').decode()),
        ("FL_REFUSED", "9" * 5000 + ":ab:taken"),
    ],
)
def test_garbage_counts_as_not_published(attribute, value):
    found = status(
        [{"FL_PARTITION_ID": "0", "FL_NUM_PARTITIONS": "2", attribute: value}], FL_RUN_ID="5", **{attribute: value}
    )
    assert (found.name, found.share in {"", "Only partition 0 of 2 takes part: 50% of the data."}) == ("lab", True)


def failed_body(role_state, *log):
    return {
        "state": 6,
        "roles": [
            {"name": name, "state": role_state, "cardinality": 0, "nodes": []} for name in ("superlink", "supernode")
        ],
        "log": [{"timestamp": 1, "severity": severity, "message": message} for severity, message in log],
    }


def test_a_failed_service_says_oneflows_newest_error_however_its_other_lines_are_worded():
    log = ("I", "New state: UNDEPLOYING"), ("E", "Role supernode : no route to host."), ("I", "Entered FAILED")
    assert read_status(1, "lab", failed_body(3, *log), {}, (), NOW).failure == "Role supernode : no route to host."
    assert read_status(1, "lab", failed_body(3, log[0], log[2]), {}, (), NOW).failure == "FAILED_UNDEPLOYING"


def test_roles_that_could_not_be_deployed_are_named_with_oneflows_newest_error():
    log = ("E", "an older one"), ("E", "Role superlink : Not authorized."), ("I", "New state: FAILED_DEPLOYING")
    [cause] = causes(None, failed_body(7, *log), {})
    assert cause == "Role superlink and role supernode could not be deployed: Role superlink : Not authorized."
    assert list(causes(None, failed_body(7), {})) == ["Role superlink and role supernode could not be deployed."]
