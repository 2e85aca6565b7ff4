"""Invariants: what must always hold, whatever happens to a federation and in whatever order.

A hypothesis state machine drives the local cloud's servers, with OneFlow's real delays, on a clock that stands still
in between. The guests' part in assigning partitions runs the appliance's own code.
"""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oneflower.local.clock import REAL
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    ServiceOptions,
    merge_template,
    render,
    service_template,
    vm_template,
)
from oneflower.opennebula.states import ServiceState
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.settings import Bounds, resolve
from tests.examples import examples

from .cloud import LocalServers

LEAST, MOST = 1, 6
STEPS = collections.Counter()

S = ServiceState
# What can follow what. Source: LifeCycleManager.rb.
TRANSITIONS = {
    S.PENDING: {S.DEPLOYING_NETS},
    S.DEPLOYING_NETS: {S.DEPLOYING, S.UNDEPLOYING},
    S.DEPLOYING: {S.RUNNING, S.FAILED_DEPLOYING, S.UNDEPLOYING},
    S.FAILED_DEPLOYING: {S.RUNNING, S.FAILED_DEPLOYING, S.UNDEPLOYING},
    S.RUNNING: {S.WARNING, S.SCALING, S.UNDEPLOYING, S.RUNNING},
    S.WARNING: {S.RUNNING, S.UNDEPLOYING},
    S.SCALING: {S.COOLDOWN, S.FAILED_SCALING, S.UNDEPLOYING},
    S.FAILED_SCALING: {S.COOLDOWN, S.FAILED_SCALING, S.UNDEPLOYING},
    S.COOLDOWN: {S.RUNNING, S.UNDEPLOYING},
    S.UNDEPLOYING: {S.UNDEPLOYING_NETS, S.UNDEPLOYING},
    S.UNDEPLOYING_NETS: set(),
}


SETTLED = (S.RUNNING, S.UNDEPLOYING, S.UNDEPLOYING_NETS)


class Life(RuleBasedStateMachine):
    """One federation after another, with everything that can happen to it."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.open()
        self.service = None
        self.reported = set()
        self.partitions = Partitions()
        self.forced_out = 0
        self.log_seen = 0
        self.state = None
        self.ever = set()

    def open(self):
        self.cloud = LocalServers(Path(self.folder.name) / "cloud.db", 1_700_000_000.0, REAL)

    def teardown(self):
        self.cloud.close()
        self.folder.cleanup()

    # -- what is there -----------------------------------------------------------------------------------------------

    @property
    def document(self):
        return self.cloud.documents.service(self.service) if self.service is not None else None

    def role(self, name):
        return self.document.role(name)

    def nodes(self, name):
        return [node["deploy_id"] for node in self.role(name)["nodes"]]

    def alive(self, *names):
        numbers = [vm for name in names or (COORDINATOR, NODES) for vm in self.nodes(name)]
        return [vm for vm in numbers if vm in self.cloud.compute.vms]

    def post(self, path, body):
        return self.cloud.oneflow.post(f"/service/{self.service}{path}", json=body).status_code

    # -- what happens ------------------------------------------------------------------------------------------------

    @initialize()
    def register(self):
        ids = {}
        for name in (COORDINATOR, NODES):
            template = vm_template(name)
            del template["CONTEXT"]["ONEFLOWER_ROLE"]
            from oneflower.local.oned.vmtext import parse_template

            ids[name] = self.cloud.compute.catalogue.save_template(parse_template(render({"NAME": name, **template})))
        options = ServiceOptions(bounds=Bounds(2, 10, 2), cooldown=20, template_ids=ids)
        body = service_template(options)
        for role in body["roles"]:
            del role["template_contents"]["CONTEXT"]["ONEFLOWER_ROLE"]
        self.body = body
        self.template = self.cloud.documents.create_template(body).id

    @precondition(lambda self: self.document is None)
    @rule(number=st.integers(LEAST, MOST))
    def deploy(self, number):
        bounds = Bounds(LEAST, MOST, number)
        given = {f"FL_MIN_{name}_CLIENTS": "1" for name in ("FIT", "EVALUATE", "AVAILABLE")}
        merge = merge_template(self.body, "life", resolve(given, bounds=bounds), bounds)
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        answer = self.cloud.oneflow.post(f"/service_template/{self.template}/action", json=action)
        assert answer.status_code == 201, answer.text
        self.service = int(answer.json()["DOCUMENT"]["ID"])
        self.reported, self.partitions, self.forced_out = set(), Partitions(), 0
        self.state, self.log_seen, self.ever = S.PENDING, 0, set()
        self.cloud.clock.advance(0)

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 31.0, 95.0]))
    def time_passes(self, seconds):
        self.cloud.clock.advance(seconds)

    @precondition(lambda self: self.document is not None and self.unreported())
    @rule(data=st.data())
    def a_guest_reports_ready(self, data):
        self.report(data.draw(st.sampled_from(self.unreported())))

    @precondition(lambda self: self.document is not None and self.document.state not in SETTLED)
    @rule(moments=st.integers(1, 12))
    def everybody_does_their_part(self, moments):
        """Let time pass and every guest report, as usual. The invariants are checked in between."""
        for _ in range(moments):
            self.cloud.clock.advance(3)
            if self.document is None:
                return
            for vm in self.unreported():
                self.report(vm)
            self.check()

    def check(self):
        self.every_transition_is_one_of_oneflows()
        self.no_child_before_its_parent_is_ready()
        self.partitions_of_the_living_are_unique()

    def unreported(self):
        return [vm for vm in self.alive() if self.cloud.compute.vms[vm].running and vm not in self.reported]

    def report(self, vm):
        if vm in self.nodes(NODES):
            link = self.superlink()
            if link is None or vm not in self.hand_out(link):
                return  # a SuperNode waits until it has a partition
            ids = self.partitions.ids
            values = f"FL_PARTITION_ID={ids[vm]}\nFL_NUM_PARTITIONS={self.partitions.count}\nREADY=YES"
        else:
            values = "FL_ENDPOINT=127.0.0.9:9092\nREADY=YES"
        assert self.cloud.put(vm, values).status_code == 200
        self.reported.add(vm)

    def superlink(self):
        return next((vm for vm in self.alive(COORDINATOR) if vm in self.reported), None)

    def hand_out(self, link):
        """Do what the SuperLink's agent does at every tick."""
        service = self.cloud.onegate.get("/service", headers=self.cloud.headers(link)).json()["SERVICE"]
        nodes = next(role["nodes"] for role in service["roles"] if role["name"] == NODES)
        self.partitions = self.partitions.after(tuple(node["deploy_id"] for node in nodes))
        assert self.cloud.put(link, f"FL_PARTITIONS={self.partitions}").status_code == 200
        return self.partitions.ids

    @precondition(lambda self: self.document is not None)
    @rule(number=st.integers(0, MOST + 1))
    def scale(self, number):
        before, leaving = self.nodes(NODES), self.leaving()
        state, now = self.document.state, self.role(NODES)["cardinality"]
        status = self.post("/scale", {"role_name": NODES, "cardinality": number, "force": False})
        allowed = state is S.RUNNING and LEAST <= number <= MOST and number != now
        assert status == (204 if allowed else 500)
        if allowed and number < now and len(before) == now:
            assert self.leaving() == leaving | set(before[: now - number]), "the oldest go"

    def leaving(self):
        return {vm.id for vm in self.cloud.compute.vms.values() if vm.lcm_state == 12}

    @precondition(lambda self: self.document is not None and self.alive())
    @rule(data=st.data(), action=st.sampled_from(["poweroff-hard", "terminate-hard", "resume", "reboot"]))
    def a_machine_is_meddled_with(self, data, action):
        vm = data.draw(st.sampled_from(self.alive()))
        from oneflower.local.errors import CloudError

        try:
            self.cloud.compute.act(self.cloud.compute.vms[vm], action)
        except CloudError:
            return
        if action == "terminate-hard":
            self.forced_out += 1

    @precondition(lambda self: self.document is not None and self.alive())
    @rule(data=st.data())
    def a_machine_fails_to_boot(self, data):
        vm = self.cloud.compute.vms[data.draw(st.sampled_from(self.alive()))]
        if vm.lcm_state == 1:
            self.cloud.compute.recover(vm, 0)

    @precondition(lambda self: self.document is not None)
    @rule()
    def recover(self):
        state = self.document.state
        status = self.post("/action", {"action": {"perform": "recover"}})
        assert (status == 204) == (state not in (S.RUNNING, S.WARNING, S.HOLD, S.DONE))

    @precondition(lambda self: self.document is not None and self.ever)
    @rule()
    def remove(self):
        """Remove it as our client does: never delete twice, and remove by hand what OneFlow leaves behind.

        If a role has more nodes than its cardinality, OneFlow terminates only the surplus. So the other machines stay
        when a service is removed while it is being scaled down.
        """
        vms, state = self.alive(), self.document.state
        if state not in (S.UNDEPLOYING, S.UNDEPLOYING_NETS):
            if state in (S.RUNNING, S.WARNING):
                assert self.cloud.oneflow.delete(f"/service/{self.service}").status_code == 204
            else:
                assert self.cloud.oneflow.delete(f"/service/{self.service}").status_code == 500
                assert self.post("/action", {"action": {"perform": "recover", "params": {"delete": True}}}) == 204
        self.cloud.clock.advance(60)
        assert self.document is None
        left = [vm for vm in vms if vm in self.cloud.compute.vms]
        assert state is S.SCALING or not left
        for vm in left:
            self.cloud.compute.act(self.cloud.compute.vms[vm], "terminate-hard")
        self.cloud.clock.advance(60)
        assert not set(vms) & set(self.cloud.compute.vms), "nothing is left"
        self.service = None

    @rule()
    def the_daemon_is_killed_and_comes_back(self):
        now = self.cloud.clock.now()
        self.cloud.close()
        self.open()
        self.cloud.clock.advance(now - self.cloud.clock.now() + 1)
        self.cloud.compute.resume()
        self.cloud.lifecycle.start()

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def steps_are_counted(self):
        STEPS["steps"] += 1
        if self.document is not None:
            STEPS[self.document.state.name] += 1
            STEPS["parts"] += any(
                "FL_PARTITION_ID" in self.cloud.compute.vms[v].user_template for v in self.alive(NODES)
            )

    @invariant()
    def every_transition_is_one_of_oneflows(self):
        if self.document is None:
            return
        log = [line["message"] for line in self.document.body.get("log", ())]
        for message in log[self.log_seen if len(log) < 50 else len(log) :]:
            if message.startswith("New state: "):
                after = S[message.removeprefix("New state: ")]
                assert after in TRANSITIONS[self.state], f"{self.state.name} -> {after.name}"
                self.state = after
        self.log_seen, self.state = len(log), self.document.state

    @invariant()
    def no_child_before_its_parent_is_ready(self):
        if self.document is not None and self.nodes(NODES) and not self.ever:
            link = self.nodes(COORDINATOR)
            parked = any(vm not in self.cloud.compute.vms or self.cloud.compute.vms[vm].parked for vm in link)
            assert self.reported & set(link) or parked or self.forced_out
            self.ever = set(link)

    @invariant()
    def cardinality_stays_within_its_bounds(self):
        if self.document is not None:
            number = self.role(NODES)["cardinality"]
            assert number <= MOST
            assert number >= LEAST or self.forced_out

    @invariant()
    def partitions_of_the_living_are_unique(self):
        if self.document is None:
            return
        given = collections.Counter()
        for vm in self.alive(NODES):
            attributes = self.cloud.compute.vms[vm].user_template
            if attributes.get("READY") == "YES":
                given[attributes["FL_PARTITION_ID"]] += 1
                assert int(attributes["FL_PARTITION_ID"]) < int(attributes["FL_NUM_PARTITIONS"])
        assert all(number == 1 for number in given.values()), given

    @invariant()
    def every_machine_belongs_to_the_service_or_is_going(self):
        mine = set(self.alive()) if self.document is not None else set()
        for vm in self.cloud.compute.vms.values():
            assert vm.id in mine or vm.lcm_state == 12, f"VM {vm.id} is nobody's"


Life.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=40, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@pytest.mark.hypothesis
class TestLife(Life.TestCase):
    """Runs the machine."""

    def runTest(self):  # noqa: N802 - unittest calls it so
        super().runTest()
        assert STEPS["steps"] >= examples(1000), f"only {STEPS['steps']} steps"
        assert STEPS["RUNNING"], "no federation ever ran"
