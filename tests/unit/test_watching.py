"""How the agent watches Flower, with programs that die or hang in Flower's place."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import itertools
import json
import math
import threading
import time
import zlib

import pytest

from oneflower_appliance import features_off
from oneflower_appliance.agent import agent, backoff, diagnosis, duties, flower_process, supernode, tls
from oneflower_appliance.agent import machine as machines
from oneflower_appliance.agent.admission import Admission
from oneflower_appliance.agent.authority import replace_authority
from oneflower_appliance.agent.discovery import Found
from oneflower_appliance.agent.journal import Journal, Step
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.membership import Membership
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.onegate import Role as Role_
from oneflower_appliance.agent.roster import Roster
from oneflower_appliance.agent.shortfalls import Shortfalls
from oneflower_appliance.agent.trust import Trust
from oneflower_appliance.approvals import FOLDER, Asks
from oneflower_appliance.attributes import FEATURES_OFF
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.orders import Ending, NodeReport
from oneflower_appliance.process import Child
from oneflower_appliance.public_key import PublicKey
from oneflower_appliance.settings import resolve


class Gate:
    def __init__(self):
        self.put = []

    def publish(self, values):
        self.put.append(values)

    def attributes(self):
        return {name: value for values in self.put for name, value in values.items()}


class Role:
    """A role whose Flower is `command`."""

    name = "superlink"

    def __init__(self, command):
        self.command, self.starts, self.child = command, 0, None

    def restart_steps(self):
        return [Step("start", self.start)]

    def start(self):
        self.starts += 1
        self.child = Child(self.command, {}, lambda line: None)
        return "started"

    def tick(self):
        return 60

    def diagnose(self, cause):
        return cause


@pytest.fixture
def machine(tmp_path):
    journal = Journal("superlink", tmp_path / "status.json")
    return Machine(tmp_path, {}, resolve({}), journal, Gate())


def test_a_flower_that_keeps_dying_is_given_up_with_the_reason(machine, monkeypatch):
    pauses = []
    monkeypatch.setattr(agent.time, "sleep", pauses.append)
    role = Role(["sh", "-c", f"exit {int(Ending.NO_STATE)}"])
    role.start()
    with pytest.raises(OneflowerError, match="Flower ended 5 times within 5 minutes. Flower cannot write its state"):
        agent.watch_over(role, machine)
    assert role.starts == 5
    assert pauses == sorted(pauses)
    assert all(put.get("READY") != "YES" for put in machine.onegate.put)
    assert sum("READY" in put and "FL_ERROR" in put for put in machine.onegate.put) == 4


def test_a_flower_that_hangs_is_not_waited_for_for_ever(machine, monkeypatch):
    monkeypatch.setattr(flower_process, "START_LIMIT", 0.3)
    child = Child(["sleep", "60"], {}, lambda line: None)
    try:
        with pytest.raises(OneflowerError, match="The SuperLink did not answer within 0 s: refused") as caught:
            flower_process.wait_for(child, _refused, "The SuperLink did not answer")
        assert caught.value.code is ExitCode.TIMEOUT
    finally:
        child.stop(1)


def test_a_flower_that_hangs_is_started_again(machine, monkeypatch):
    monkeypatch.setattr(agent.time, "sleep", lambda _: None)
    role = Role(["sleep", "60"])
    role.start()
    first = role.child
    ticks = iter([0.01, diagnosis.HungError("It hangs."), KeyboardInterrupt()])

    def tick():
        found = next(ticks)
        if isinstance(found, BaseException):
            raise found
        return found

    role.tick = tick
    with pytest.raises(KeyboardInterrupt):
        agent.watch_over(role, machine)
    role.child.stop(0)
    assert first.ended.is_set()
    assert role.starts == 2
    assert next(put["READY"] for put in machine.onegate.put if "READY" in put) == "NO"


FOUND = Found("10.0.0.1:9092", 3)


class Superlinked:
    """A SuperLink as a SuperNode sees it, with a clock that is `ahead` of the SuperNode's."""

    def __init__(self, *heard, ahead=0.0):
        self.heard = iter(heard)
        self.ahead = ahead
        self.stuck = False

    def clock_difference(self, endpoint):
        return self.ahead

    def lists_online(self, endpoint, node_id):
        found = next(self.heard)
        if found is None:
            raise ConnectionRefusedError
        return found

    def knows_stuck(self, endpoint, node_id):
        return self.stuck


def test_a_supernode_whose_clientapp_holds_it_is_started_again(machine):
    seen = Superlinked(True, False)
    node = supernode.SuperNode(machine, FOUND, lambda _: seen)
    node.tick()
    seen.stuck = True
    with pytest.raises(diagnosis.HungError, match="did not answer in the time that its round had"):
        node.tick()


def test_a_supernode_that_was_told_that_it_is_stuck_is_started_again_without_asking(machine):
    node = supernode.SuperNode(machine, FOUND, lambda _: Superlinked())
    now = time.monotonic()
    NodeReport("7", now, now, watched=True, stuck=True).write(machine.home / "supernode.json")
    held = Asks(machine.home / FOLDER)
    (machine.home / FOLDER).mkdir()
    held.hold(held=True)
    node.tick()  # it waits for an approval, and answers by itself when its site's time for that is over
    held.hold(held=False)
    with pytest.raises(diagnosis.HungError, match="did not answer in the time that its round had"):
        node.tick()


def test_a_supernode_that_is_not_heard_for_long_hangs_and_a_superlink_that_is_away_is_another_matter(
    machine, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: now[0])
    seen = Superlinked(True, None, None, False, None, False, False, False)
    node = supernode.SuperNode(machine, FOUND, lambda _: seen)
    for _ in range(7):
        now[0] += node.tick() * 3
    now[0] += 20
    with pytest.raises(diagnosis.HungError, match="does not hear from this SuperNode"):
        node.tick()


@pytest.mark.parametrize(
    ("report", "asked"),
    [
        ({"ago": 5}, False),
        ({"ago": 56}, True),
        ({"ago": 5, "working": 5}, False),
        ({"ago": 5, "working": 15}, True),
        ({"ago": 5, "working": 500, "watched": True}, False),
        ({"ago": None}, True),  # the last heartbeat was not acknowledged
        (None, True),  # this Flower reports nothing
    ],
)
def test_a_superlink_is_asked_about_a_node_only_when_the_node_cannot_tell(machine, monkeypatch, report, asked):
    seen, now = Superlinked(*[False] * 9), [time.monotonic()]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: now[0])
    node = supernode.SuperNode(machine, FOUND, lambda _: seen)
    ago = (report or {}).get("ago")
    if report is not None:
        heard = None if ago is None else now[0] - ago
        since = now[0] - report["working"] if "working" in report else None
        NodeReport("7", heard, since, report.get("watched", False)).write(machine.home / "supernode.json")
    now[0] += node.tick() if asked else 0
    now[0] += 45 if asked else 55
    if not asked:
        node.tick()  # the report is old now, so the SuperLink is asked, and has not heard from the node
        now[0] += 45
    with pytest.raises(diagnosis.HungError, match="does not hear from this SuperNode"):
        node.tick()


class Superlinks:
    """OneGate of a service whose SuperLink, VM 3, refuses the keys `refused` of VM 7 and takes every other."""

    def __init__(self, refused=(), reason="spent"):
        self.refused, self.reason, self.published = list(refused), reason, []

    def publish(self, values):
        self.published.append(values.get("FL_PUBLIC_KEY"))

    def attributes(self, vm=None):
        if not self.published:
            return {"FL_NODES": "-", "FL_REFUSED": "-"}
        key = PublicKey.read(self.published[-1]).fingerprint
        if key in self.refused or self.refused == ["all"]:
            return {"FL_NODES": "-", "FL_REFUSED": f"7:{key}:{self.reason}"}
        return {"FL_NODES": f"7:{1000 + len(self.published)}:{key}", "FL_REFUSED": "-"}


@pytest.fixture
def joining(machine, monkeypatch):
    """Return a function that makes the membership of a SuperNode, VM 7, which has introduced itself."""
    monkeypatch.setattr(machines.time, "sleep", lambda _: None)

    def make(**known):
        gate = Superlinks(**known)
        member = Membership(dataclasses.replace(machine, onegate=gate, context={"VMID": "7"}))
        member.introduce()
        return member, gate

    return make


@pytest.mark.parametrize("reason", ["spent", "taken"])
def test_a_node_whose_key_is_refused_makes_another_and_gets_in_with_it(joining, machine, reason):
    first = NodeKey.of(machine.home / "tls" / "node.key")
    member, gate = joining(refused=[first.public.fingerprint], reason=reason)
    assert member.wait(FOUND) == "as node 1002"
    assert gate.published[0] == first.published != gate.published[1]
    assert NodeKey.of(machine.home / "tls" / "node.key").published == gate.published[1]


def test_a_node_does_not_make_keys_for_ever(joining):
    member, gate = joining(refused=["all"])
    with pytest.raises(OneGateError, match="refused 5 keys"):
        member.wait(FOUND)
    assert len(gate.published) == 6


def test_a_node_does_not_take_another_ca_from_the_same_superlink(machine, tmp_path):
    own, foreign = (
        base64.b64encode(tls.make_certificates(tmp_path / name, [("IP", "10.0.0.1")]).ca.read_bytes()).decode()
        for name in ("own", "foreign")
    )

    class Answering:
        def fleet_answers(self, endpoint):
            return True

    def trust(ca, vm=3, machine=machine):
        trusting = Trust(machine, lambda _: Answering())
        trusting.settle(Found("10.0.0.1:9092", vm, {"FL_CA_CERT": ca}))
        return trusted()

    def trusted():
        return base64.b64encode(Trust(machine).path.read_bytes()).decode()

    assert trust(own) == trust(own) == own
    with pytest.raises(OneflowerError, match="VM 3 published another CA certificate"):
        trust(foreign)
    assert trusted() == own
    replace_authority(tmp_path / "own", tls.current_time())
    later = base64.b64encode((tmp_path / "own" / "ca.crt").read_bytes()).decode()
    assert trust(later) == trust(later) == later, "the one that it trusted has signed it"
    with pytest.raises(OneflowerError, match="VM 3 published another CA certificate"):
        trust(own)
    assert trust(foreign, vm=9) == foreign, "a SuperLink that OneFlow replaced is another VM"
    given = dataclasses.replace(machine, settings=resolve({"FL_SSL_CA_CERTFILE": own}, supernode.LEVELS))
    assert trust("what a member published", vm=9, machine=given) == own, "a CA of the context counts"
    raw = base64.b64decode(own).decode()
    given = dataclasses.replace(machine, settings=resolve({"FL_SSL_CA_CERTFILE": raw}, supernode.LEVELS))
    assert trust("what a member published", vm=9, machine=given) == own, "also as Sunstone sends it, not encoded"


REFUSED = diagnosis.RefusedError()


@pytest.mark.parametrize(
    ("superlink", "sentence", "keeps"),
    [
        (Superlinked(False), "no longer accepts this SuperNode's key. The SuperNode makes another key", False),
        (Superlinked(False, ahead=303), "no longer accepts this SuperNode's key", False),
        (Superlinked(False, ahead=400), "This machine's clock is 400 s behind the SuperLink's", True),
        (Superlinked(False, ahead=-30), "This machine's clock is 30 s ahead of the SuperLink's", True),
        (Superlinked(True), "an earlier process of it still counts as online", True),
        (Superlinked(None), "refused a signed request", True),
    ],
)
def test_a_refused_request_is_the_clocks_fault_or_the_keys(joining, superlink, sentence, keeps):
    member, gate = joining()
    member.wait(FOUND)
    assert sentence in member.diagnose(REFUSED, FOUND.endpoint, superlink).sentence
    assert member.is_lost is not keeps
    member.introduce()
    assert (gate.published[0] == gate.published[-1]) is keeps


def test_the_clock_of_a_superlink_is_read_from_its_answers(machine):
    ahead = 400

    class Health(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def date_time_string(self, timestamp=None):
            return super().date_time_string(time.time() + ahead)

        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert abs(Probe(None).clock_difference(f"127.0.0.1:{server.server_port}") - ahead) < 3


def test_a_key_that_an_operator_registered_by_hand_is_never_dropped(machine):
    member = Membership(dataclasses.replace(machine, onegate=None))
    member.introduce()
    member.wait(Found("10.0.0.1:9092"))
    assert "flwr supernode register" in member.diagnose(REFUSED, "10.0.0.1:9092", Superlinked()).sentence
    assert member.key.path.exists()


def test_a_node_whose_key_was_dropped_introduces_itself_again(machine):
    node = supernode.SuperNode(dataclasses.replace(machine, onegate=None), FOUND)
    introduce = next(step for step in node.steps() if step.name == "introduce")
    introduce.action()
    assert "admission" not in [step.name for step in node.restart_steps()]
    (machine.home / "tls" / "node.key").unlink()
    assert [step.name for step in node.restart_steps()][:3] == ["prepare", "introduce", "admission"]


def test_a_supernode_publishes_what_turns_out_to_be_off_while_it_runs(machine, monkeypatch):
    down = [True]

    class Flaky(Gate):
        def publish(self, values):
            if down:
                down.pop()
                raise OneGateError("OneGate answered 500.", "", heals=True)
            super().publish(values)

    gate = Flaky()
    shortfalls = Shortfalls(dataclasses.replace(machine, onegate=gate))
    monkeypatch.setenv(features_off.FOLDER_VARIABLE, str(shortfalls.forget()))
    shortfalls.look()
    shortfalls.publish_news()
    assert down, "there is no news"
    features_off.report("CLIENTAPP_FOLDER", "A folder is off.")
    shortfalls.publish_news()
    assert gate.put == [], "OneGate was down"
    for _ in range(2):
        shortfalls.publish_news()
    [values] = gate.put
    assert FEATURES_OFF.read(values) == "A folder is off."


def test_a_superlink_publishes_what_turns_out_to_be_off_while_it_runs(machine, monkeypatch):
    class Service(Gate):
        def service(self):
            return {}

    class Idle:
        following, pause = False, math.inf

        def look(self, *_):
            return {}

    machine = dataclasses.replace(machine, onegate=Service())
    monkeypatch.setenv(features_off.FOLDER_VARIABLE, str(Shortfalls(machine).forget()))
    link = duties.Duties(machine, Idle())
    assert link.begin()["FL_FEATURES_OFF"] == "-"
    features_off.report("SERVERAPP_FOLDER", "A folder is off.")
    link.look()
    assert FEATURES_OFF.read(machine.onegate.put[-1]) == "A folder is off."
    Idle.pause = 0.01
    assert link.look() == 0.01, "a run is planned to start then"


def test_a_superlink_that_does_not_answer_for_long_hangs(machine, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: now[0])

    class Silent:
        following, pause = True, math.inf

        def look(self, *_):
            raise TimeoutError

    link = duties.Duties(dataclasses.replace(machine, onegate=None), Silent())
    link.look()
    now[0] += 60
    with pytest.raises(diagnosis.HungError, match="no longer answers"):
        link.look()


def test_while_a_run_goes_on_it_is_looked_at_every_second_and_onegate_as_rarely_as_before(machine, monkeypatch):
    now, asked, looked = [0.0], [], []
    monkeypatch.setattr(duties.time, "monotonic", lambda: now[0])

    class Asked(Gate):
        def service(self):
            asked.append(now[0])
            return {}

    class Busy:
        following, pause = True, math.inf

        def look(self, *_):
            looked.append(now[0])
            return {"FL_RUN_STATUS": "running"}

        def report_again(self):
            self.lost = True

    gate, keeper = Asked(), Busy()
    link = duties.Duties(dataclasses.replace(machine, onegate=gate), keeper)
    while now[0] < 60:
        now[0] += link.look()
    assert max(after - before for before, after in itertools.pairwise(looked)) < 1.001
    assert len(asked) < len(looked) / 2

    def refuse(values):
        raise OneGateError("OneGate answered 500.", "", heals=True)

    gate.publish = refuse
    link.look()
    assert keeper.lost, "what could not be published is told again"


def _refused():
    raise ConnectionRefusedError("refused")


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (-9, "Flower was ended from outside, by signal 9."),
        (Ending.ADDRESS_TAKEN, "A port that Flower needs is already in use"),
        (Ending.REFUSED, "refused a signed request"),
        (Ending.UNTRUSTED, "not signed by the CA"),
        (Ending.NO_STATE, "cannot write its state"),
        (1, "Flower ended with exit status 1: No space left on device, says somebody"),
    ],
)
def test_the_end_of_flower_is_explained_by_its_exit_status_and_no_text_decides(status, cause):
    end = f"exit {int(status)}" if status > 0 else f"kill {int(status)} $$"
    child = Child(["sh", "-c", f"echo 'No space left on device, says somebody'; {end}"], {}, lambda line: None)
    with pytest.raises(OneflowerError) as caught:
        flower_process.wait_for(child, lambda: False, "x")
    assert cause in caught.value.sentence


def test_the_last_line_of_a_child_is_awaited_and_not_missed():
    for _ in range(20):
        child = Child(["sh", "-c", "echo the reason; exit 3"], {}, lambda line: time.sleep(0.02))
        assert child.ended.wait(10)
        assert child.last_line(10) == "the reason"


def test_a_last_line_is_not_awaited_for_ever_where_another_program_holds_the_output_open():
    child = Child(["sh", "-c", "sleep 61 & echo the reason; exit 3"], {}, lambda line: None)
    assert child.ended.wait(10)
    started = time.monotonic()
    assert child.last_line() == "the reason"
    assert time.monotonic() - started < 10
    child.stop(0)


def test_a_child_that_ignores_sigterm_is_ended_with_its_whole_group():
    lines = []
    child = Child(["sh", "-c", "trap '' TERM; sleep 61 & echo ready; wait; sleep 61"], {}, lines.append)
    while not lines:
        time.sleep(0.01)
    started = time.monotonic()
    child.stop(0.3)
    assert time.monotonic() - started < 3
    assert child.status == -9


def test_secrets_of_the_environment_do_not_reach_flower(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    lines = []
    child = Child(["env"], {"GIVEN": "yes"}, lines.append)
    child.ended.wait(5)
    time.sleep(0.1)
    assert "GIVEN=yes" in lines
    assert not any("hunter2" in line for line in lines)


def test_the_status_file_tells_what_failed(machine):
    def fail():
        raise OneflowerError("It broke.", "Fix it.")

    with pytest.raises(OneflowerError):
        machine.journal.run([Step("one", lambda: "fine"), Step("two", fail), Step("three", lambda: "never")])
    steps = json.loads((machine.home / "status.json").read_text())["steps"]
    assert [(step["name"], step["outcome"]) for step in steps] == [("one", "done"), ("two", "failed")]


def test_a_remark_makes_a_ready_machine_degraded(machine):
    machine.journal.remark(["FL_CHECKPOINT_ENABLED=YES has no effect in this release."])
    machine.journal.run([Step("one", lambda: "fine")])
    status = json.loads((machine.home / "status.json").read_text())
    assert (status["health"], status["ready"]) == ("degraded", True)
    assert "FL_CHECKPOINT_ENABLED" in status["causes"][0]


def test_partitions_and_admissions_that_could_not_be_published_are_published_later(machine):
    """One failed request must not make a SuperNode miss what it waits for."""

    class Flaky(Gate):
        fail = True

        def service(self):
            return {"supernode": Role_("supernode", 2, (41, 42))}

        def attributes(self, vm):
            return {"FL_PUBLIC_KEY": NodeKey.of(machine.home / f"{vm}.key").published}

        def publish(self, values):
            if self.fail:
                raise OneGateError("OneGate answered 500.", "", heals=True)
            super().publish(values)

    class Api:
        def register(self, key):
            return str(zlib.crc32(key.encode()))

    class Idle:
        following, pause = False, math.inf

        def look(self, *_):
            return {}

    gate = Flaky()
    admission = Admission(Api(), machine.home / "members.json")
    link = duties.Duties(dataclasses.replace(machine, onegate=gate), Idle(), admission=admission)
    link.look()
    assert gate.put == []
    gate.fail = False
    link.look()
    [published] = gate.put
    assert published["FL_PARTITIONS"] == "/2 41:0 42:1"
    assert list(Roster.parse(published["FL_NODES"]).members) == [41, 42]
    link.look()
    assert len(gate.put) == 1, "what has not changed is not published again"
