"""How SuperNodes hear that their operator wants other keys: in the answers of the SuperLink, and from nobody else."""

from __future__ import annotations

import stat
import time

import httpx
import pytest
from flwr.superlink import main as superlink
from starlette.applications import Starlette

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.key_order import HEADER, Hearing, KeyOrder
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.nodereport import Reporter
from oneflower_appliance.orders import NodeReport
from tests.unit.served import ADDRESS, PLAIN, Served
from tests.unit.signing import SuperNode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


def test_the_operator_orders_and_members_hear_how_long_ago_also_after_a_restart(tmp_path):
    now, file, member = [1000.0], tmp_path / "key-order.json", SuperNode()
    app = superlink.create_app()
    state = app.state.linkstate_factory.state()
    number = state.create_node("nobody", "nobody", member.key, 0)
    order = KeyOrder(file, lambda: now[0])
    api = Starlette(routes=order.routes())
    door = FleetDoor(app, api, Membership(app), order=order)
    with Served(OwnDoor(app, api), door) as served:

        def heard(node):
            url = f"http://{ADDRESS}:{served.fleet[1]}/v1/fleet/send-node-heartbeat"
            messages = internals.heartbeat_messages()
            body = messages.SendNodeHeartbeatRequest(node={"node_id": number}, heartbeat_interval=30)
            answer = httpx.post(
                url, content=body.SerializeToString(), headers=node.headers(), trust_env=False, verify=PLAIN
            )
            return answer.headers.get(HEADER, "")

        def give(port):
            url = f"http://{ADDRESS}:{port}/oneflower/keys/replace"
            return httpx.post(url, json={}, trust_env=False, verify=PLAIN).status_code

        assert heard(member) == ""
        assert give(served.fleet[1]) == 403, "nobody gives it from outside"
        assert heard(member) == ""
        assert give(served.control[1]) == 200
        now[0] += 42
        name, ago = heard(member).split()
        assert ago == "42"
        assert heard(SuperNode()) == "", "who is no member hears nothing"
        assert give(served.control[1]) == 200
        assert heard(member).split()[0] != name
        now[0] -= 5000  # the clock is set back
        assert heard(member).split()[1] == "0"
    again = KeyOrder(file, lambda: now[0])
    assert again._name not in ("", name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"order": "x", "given": "y"}'])
def test_a_damaged_file_is_no_order(tmp_path, kept):
    file = tmp_path / "key-order.json"
    file.write_text(kept)
    assert KeyOrder(file).tell(None) is None


@pytest.fixture
def node(monkeypatch, tmp_path):
    """Return what a node's client does with an answer, and what its agent then reads."""
    taken = []
    client = internals.fleet_client()
    monkeypatch.setattr(client, "__init__", lambda _, *, interceptors=(): taken.extend(interceptors))
    states = type(internals.node_state())
    monkeypatch.setattr(states, "set_node_id", states.set_node_id)
    reporter = Reporter(tmp_path / "report.json")
    reporter._report_id()
    Hearing(reporter).start()
    internals.node_state().set_node_id(7)
    client()
    [hearing] = taken

    def hear(said):
        headers = {} if said is None else {HEADER: said}
        assert hearing.intercept(None, lambda _: httpx.Response(200, headers=headers)).is_success
        return NodeReport.read(tmp_path / "report.json")

    return hear


def test_a_node_reports_an_order_once(node):
    assert node(None).key_order == ""
    first = node("abc 40")
    assert first.key_order == "abc"
    assert time.time() - first.key_order_given == pytest.approx(40, abs=5)
    assert node("abc 41") == first, "it is told with each answer"
    assert node(None) == first
    assert node("def 0").key_order == "def"


@pytest.mark.parametrize("said", ["", "abc", "abc x", "abc -1", " 5", "abc ٣", "x" * 200 + " 1"])
def test_what_is_no_order_is_not_reported(node, said):
    assert node(said.encode()).key_order == ""
