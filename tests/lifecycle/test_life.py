"""The lifecycle of a federation, on the cloud that `conftest` found."""

from __future__ import annotations

import copy
import re
import threading
import time

import pytest

from oneflower.cloud import Cloud, Federation, RefusedError
from oneflower.opennebula import COORDINATOR, NODES, Policies, merge_template
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED
from oneflower_appliance.settings import Bounds, resolve

from .conftest import PATIENCE, say_why

RUNNING, WARNING, COOLDOWN = 2, 4, 10


def test_the_gate_holds_the_supernodes_until_the_superlink_is_ready(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    for text in ("NO", "yes", "TRUE", "1"):
        world.report(link, READY=text)
    assert world.nodes(federation, NODES) == []
    assert world.state(federation) == 1
    world.report(link)
    assert len(world.until(lambda: world.nodes(federation, NODES))) == 2
    assert world.state(federation) == 1, "not running before every SuperNode is ready"
    world.ready(federation)
    messages = [line["message"] for line in world.body(federation)["log"]]
    states = [message for message in messages if message.startswith("New state")]
    assert states == ["New state: DEPLOYING_NETS", "New state: DEPLOYING", "New state: RUNNING"]


@pytest.mark.parametrize("text", ["NOT_READY=YES", 'ALREADY="YES"', "READY=YES"])
def test_the_gate_opens_for_the_text_anywhere_in_an_update(world, federation, text):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    world.report(link, FL_ROLE="superlink")
    assert world.raw(link, "PUT", "/vm", content=text).status_code == 200
    assert world.until(lambda: world.nodes(federation, NODES))


def test_a_lower_case_ready_is_seen_at_the_next_poll(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    world.report(link, FL_ROLE="superlink")
    assert world.raw(link, "PUT", "/vm", content='ready="YES"').status_code == 200
    assert world.cloud.core.vm(link).attributes["READY"] == "YES"
    assert world.until(lambda: world.nodes(federation, NODES))


def test_user_inputs_reach_the_context_of_the_machines_they_are_for(world):
    settings = {"FL_NUM_ROUNDS": "7", "FL_NODE_CONFIG": 'a=1 b="it\'s"', "FL_LOG_LEVEL": "DEBUG"}
    with world.federation("inputs", **settings) as made:
        world.ready(made)
        link, node = (world.context(world.nodes(made, role)[0]) for role in (COORDINATOR, NODES))
        assert link["FL_NUM_ROUNDS"] == "7"
        assert "FL_NUM_ROUNDS" not in node
        assert node["FL_NODE_CONFIG"] == 'a=1 b="it\'s"'
        for context in (link, node):
            assert context["FL_LOG_LEVEL"] == "DEBUG"
            assert context["FLOWER_VERSION"] == FLOWER_TESTED
        assert made.status().settings["FL_NUM_ROUNDS"] == "7"


def test_what_a_guest_sees(world, federation):
    world.ready(federation)
    node = world.nodes(federation, NODES)[0]
    vm = world.raw(node, "GET", "/vm").json()["VM"]
    assert (vm["ID"], vm["STATE"], vm["LCM_STATE"]) == (str(node), "3", "3")
    assert isinstance(vm["TEMPLATE"]["NIC"], list)
    assert vm["USER_TEMPLATE"]["SERVICE_ID"] == str(federation.id)
    service = world.raw(node, "GET", "/service").json()["SERVICE"]
    assert service["id"] == str(federation.id)
    entry = service["roles"][1]["nodes"][0]
    assert (entry["deploy_id"], entry["running"], entry["vm_info"]["VM"]["ID"]) == (node, None, str(node))
    assert "TEMPLATE" not in entry["vm_info"]["VM"]
    for query in ("?extended=true", "?extended=false"):
        shown = world.raw(node, "GET", f"/service{query}").json()["SERVICE"]["roles"][1]["nodes"][0]["vm_info"]["VM"]
        assert "USER_TEMPLATE" in shown


def test_one_machine_cannot_be_another_nor_see_another_service(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    own = world.headers(link)
    for vm, token in ((str(link), "forged"), ("999999", own["X-ONEGATE-TOKEN"]), ("", ""), ("x'--", "AAAA")):
        answer = world.raw(link, "GET", "/vm", headers={"X-ONEGATE-VMID": vm, "X-ONEGATE-TOKEN": token})
        assert (answer.status_code, answer.text) == (401, "Not authorized")
    with world.federation("other") as other:
        [foreign] = world.until(lambda: world.nodes(other, COORDINATOR))
        with pytest.raises(OneGateError, match="does not contain VM"):
            world.guest(link).attributes(foreign)
        assert world.raw(link, "PUT", f"/vms/{foreign}", content="FL_X=1").status_code == 400
        assert "FL_X" not in world.cloud.core.vm(foreign).attributes


def test_every_input_must_be_given_and_bounds_are_kept(world):
    def instantiate(merge):
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return world.http.post(f"/service_template/{world.template}/action", json=action)

    template = world.cloud.oneflow.service_template(world.template)
    whole = merge_template(template, f"{world.prefix}-x", resolve({}), Bounds())
    for change in (
        lambda merge: merge.pop("user_inputs_values"),
        lambda merge: merge["user_inputs_values"].pop("FL_TLS_ENABLED"),
        lambda merge: merge.pop("roles"),
        lambda merge: merge["roles"][1]["user_inputs_values"].pop("ML_FRAMEWORK"),
    ):
        merge = copy.deepcopy(whole)
        change(merge)
        assert instantiate(merge).status_code == 400
    outside = copy.deepcopy(whole)
    outside["roles"][1]["cardinality"] = 11
    assert instantiate(outside).status_code == 500
    assert "max_vms" in instantiate(outside).text


def test_scaling_keeps_the_bounds_takes_the_oldest_and_waits_through_the_cooldown(world, federation):
    world.ready(federation)
    for number, text, refusal in (
        (11, "cannot have 11 SuperNodes: it was deployed for 2 to 10", "Maximum cardinality is 10"),
        (1, "cannot have 1 SuperNodes: it was deployed for 2 to 10", "Minimum cardinality is 2"),
        (2, "already has 2 SuperNodes", "already at 2"),
    ):
        with pytest.raises(OneflowerError, match=text) as caught:
            federation.scale(number)
        assert not isinstance(caught.value, RefusedError), "nobody was asked"
        with pytest.raises(RefusedError, match=refusal):
            world.cloud.oneflow.scale_service(federation.id, NODES, number)
    with pytest.raises(RefusedError, match="Maximum cardinality is 1"):
        world.cloud.oneflow.scale_service(federation.id, COORDINATOR, 2)
    first = world.nodes(federation, NODES)
    with world.guests():
        assert federation.leaving(4) == []
        assert federation.scale(4, PATIENCE).supernodes == 4
        assert [vm.id for vm in federation.leaving(2)] == first
        assert federation.scale(2, PATIENCE).supernodes == 2
    assert not set(first) & set(world.nodes(federation, NODES))
    states = [line["message"] for line in world.body(federation)["log"] if line["message"].startswith("New state")]
    assert states[-6:] == [f"New state: {state}" for state in ("SCALING", "COOLDOWN", "RUNNING") * 2]


def test_a_machine_can_ask_for_another_scale(world, federation):
    world.ready(federation)
    [link] = world.nodes(federation, COORDINATOR)
    refused = world.raw(link, "PUT", f"/service/role/{NODES}", json={"cardinality": 99})
    assert (refused.status_code, refused.text[:16]) == (400, "Error performing")
    assert world.raw(link, "PUT", f"/service/role/{NODES}", json={"cardinality": 3}).status_code == 200
    with world.guests():
        world.until(lambda: len(world.nodes(federation, NODES)) == 3 and world.state(federation) == RUNNING)


def test_it_can_be_removed_in_every_state_and_twice(world):
    def at_once(_):
        pass

    def deploying(made):
        world.until(lambda: world.nodes(made, COORDINATOR))

    def scaling(made):
        world.ready(made)
        world.cloud.oneflow.scale_service(made.id, NODES, 3)

    def shrinking(made):
        """Here OneFlow forgets the machines that should have stayed: they are terminated one by one."""
        world.ready(made)
        with world.guests():
            made.scale(4, PATIENCE)
        world.cloud.oneflow.scale_service(made.id, NODES, 2)

    def going(made):
        world.ready(made)
        world.cloud.oneflow.delete_service(made.id)

    for prepare in (at_once, deploying, world.ready, scaling, shrinking, going):
        made = world.begin("doomed")
        prepare(made)
        vms = [vm for role in (COORDINATOR, NODES) for vm in world.nodes(made, role)]
        made.delete(PATIENCE)
        assert world.cloud.oneflow.service(made.id) is None
        assert world.cloud.core.vms(vms) == {}, f"nothing is left ({prepare})"
        made.delete()
    with pytest.raises(OneflowerError, match="is gone") as caught:
        made.status()
    assert caught.value.code is ExitCode.NOT_FOUND


def test_what_a_second_delete_leaves_behind_is_cleared_up(world):
    """OneFlow forgets a service that is deleted twice, together with the VMs that it still has."""
    made = world.begin("twice")
    world.ready(made)
    vms = [vm for role in (COORDINATOR, NODES) for vm in world.nodes(made, role)]

    def interfere():
        world.until(lambda: world.state(made) in (3, 5))
        world.http.delete(f"/service/{made.id}")

    thread = threading.Thread(target=interfere)
    thread.start()
    made.delete(PATIENCE)
    thread.join()
    world.until(lambda: world.cloud.core.vms(vms) == {})


def test_a_name_can_be_used_once(world, federation):
    with pytest.raises(OneflowerError, match="already") as caught:
        world.begin("fed")
    assert caught.value.code is ExitCode.CONFLICT


def test_a_name_made_by_several_at_once_is_had_by_the_first(world):
    name, ended = f"{world.prefix}-same", []
    begin = threading.Barrier(3)

    class AtOnce(type(world.cloud.surroundings)):
        """Makes everybody check the names before anybody creates a service."""

        def template(self, cloud):
            begin.wait(PATIENCE)
            return world.cloud.surroundings.number

    def make():
        cloud = Cloud(world.cloud.endpoints, AtOnce(world.cloud.surroundings.folder))
        try:
            ended.append(Federation.begin(cloud, name, {}, Bounds()))
        except OneflowerError as error:
            ended.append(error)
        cloud.close()

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [made] = [one for one in ended if isinstance(one, Federation)]
    assert [error.code for error in ended if error is not made] == [ExitCode.CONFLICT] * 2
    assert [one.id for one in Federation.all(world.cloud) if one.name == name] == [made.id], "nothing else is left"
    Federation(world.cloud, made.id, name).delete(PATIENCE)


def test_of_several_of_one_name_none_is_taken_for_another(world):
    name = f"{world.prefix}-twin"
    template = world.cloud.oneflow.service_template(world.template)
    merge = merge_template(template, name, resolve({}), Bounds())
    twins = [world.cloud.oneflow.instantiate(world.template, merge) for _ in range(2)]
    with pytest.raises(
        OneflowerError, match=f"2 federations called '{name}': services {twins[0]}, {twins[1]}"
    ) as caught:
        Federation.find(world.cloud, name)
    assert caught.value.code is ExitCode.USAGE
    for number in twins:
        Federation.find(world.cloud, str(number)).delete(PATIENCE)


def test_an_invalid_setting_starts_nothing(world):
    before = [document["ID"] for document in world.cloud.oneflow.services()]
    with pytest.raises(OneflowerError, match="FL_NUM_ROUNDS"):
        world.begin("never", FL_NUM_ROUNDS="0")
    with pytest.raises(OneflowerError, match="cannot be the name of a federation"):
        world.begin("../never")
    with pytest.raises(OneflowerError, match="supernodes: is 12"):
        world.begin("never", Bounds(2, 10, 12))
    assert [document["ID"] for document in world.cloud.oneflow.services()] == before


def broken_template(role):
    def change(body):
        next(one for one in body["roles"] if one["name"] == role)["template_id"] = 987654

    return change


def broken_parent(body):
    body["roles"][1]["parents"] = ["nobody"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (broken_template(COORDINATOR), "VM template 987654 of role superlink does not exist"),
        (broken_template(NODES), "VM template 987654 of role supernode does not exist"),
        (broken_parent, "Role supernode waits for nobody, a role that does not exist"),
    ],
)
def test_what_can_never_finish_is_named_and_not_waited_for(world, change, cause):
    with world.template_with(change), world.federation("lost") as made:
        started = time.monotonic()
        with pytest.raises(OneflowerError, match=cause) as caught:
            made.wait_ready(PATIENCE)
        assert caught.value.code is ExitCode.DEPLOY_FAILED
        assert time.monotonic() - started < PATIENCE
        assert world.state(made) in (1, 11), "OneFlow itself would wait forever"
        assert any(cause in found for found in made.status().causes), "`show` says so, too"


def test_a_template_that_is_forbidden_is_named_and_not_waited_for(world, monkeypatch):
    """OneFlow may not use it either: it behaves as if the template were missing."""
    existing = world.cloud.core.vm_template

    def forbidden(number):
        if number == 987654:
            raise RefusedError(401, "Not authorized to perform USE TEMPLATE [987654]", "OpenNebula")
        return existing(number)

    monkeypatch.setattr(world.cloud.core, "vm_template", forbidden)
    with world.template_with(broken_template(NODES)), world.federation("forbidden") as made:
        cause = "VM template 987654 of role supernode may not be used: Not authorized to perform USE TEMPLATE [987654]"
        with pytest.raises(OneflowerError, match=re.escape(cause)) as caught:
            made.wait_ready(PATIENCE)
        assert caught.value.code is ExitCode.DEPLOY_FAILED
        assert any(cause in found for found in made.status().causes), "`show` says so, too"


def test_a_template_that_goes_missing_is_named_in_whatever_state_the_service_is(world):
    """The SuperLink boots, and only then the SuperNodes."""
    spare = world.cloud.core.create_vm_template(world.empty_machine("spare"))

    def change(body):
        body["roles"][1]["template_id"] = spare

    with world.template_with(change), world.federation("later") as made:
        [link] = world.until(lambda: world.nodes(made, COORDINATOR))
        world.cloud.core.delete_vm_template(spare)
        assert world.until(lambda: world.state(made) == 1)
        for _ in range(2):
            assert f"VM template {spare} of role supernode does not exist" in "".join(made.status().causes)
            world.report(link)
            world.until(lambda: world.cloud.core.vm(link).attributes.get("READY") == "YES")
        with pytest.raises(OneflowerError, match=f"VM template {spare} of role supernode does not exist"):
            made.wait_ready(PATIENCE)


def test_a_machine_that_says_why_it_is_not_ready_ends_the_waiting(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    reason = "A port that Flower needs is already in use on this machine."
    world.report(link, FL_ERROR=say_why(reason), READY="NO")
    with pytest.raises(OneflowerError, match=f"superlink_0: {reason}") as caught:
        federation.wait_ready(PATIENCE)
    assert caught.value.code is ExitCode.DEPLOY_FAILED


def test_waiting_has_an_end_and_notices_that_somebody_else_removed_it(world, federation):
    world.until(lambda: world.nodes(federation, COORDINATOR))
    with pytest.raises(OneflowerError, match="still waiting for superlink_0") as caught:
        federation.wait_ready(0.1)
    assert caught.value.code is ExitCode.TIMEOUT
    Federation(world.cloud, federation.id, federation.name).delete(PATIENCE)
    with pytest.raises(OneflowerError, match="Somebody deleted it"):
        federation.wait_ready(PATIENCE)


def test_a_machine_that_goes_down_is_a_warning_and_coming_back_ends_it(world, federation):
    world.ready(federation)
    node = world.nodes(federation, NODES)[0]
    world.cloud.core.act_on_vm(node, "poweroff-hard")
    world.until(lambda: world.state(federation) == WARNING)
    for call in (
        lambda: world.cloud.oneflow.recover_service(federation.id),
        lambda: world.cloud.oneflow.scale_service(federation.id, NODES, 3),
    ):
        with pytest.raises(RefusedError, match="in state: WARNING"):
            call()
    assert [vm.state for vm in federation.status().vms if vm.id == node] == ["poweroff"]
    world.until(lambda: world.cloud.core.vm(node).state == 8)
    world.cloud.core.act_on_vm(node, "resume")
    assert federation.wait_ready(PATIENCE, grace=60).state == "RUNNING"


def test_a_machine_terminated_behind_its_back_is_made_up_for(world, federation):
    """OneFlow removes it from its records. Below min_vms, it boots another when it next evaluates policies."""
    world.ready(federation)
    gone = world.nodes(federation, NODES)[0]
    world.cloud.core.act_on_vm(gone, "terminate-hard")
    world.until(lambda: gone not in world.nodes(federation, NODES))
    with world.guests():
        world.until(lambda: len(world.nodes(federation, NODES)) == 2 and world.state(federation) == RUNNING)
    assert gone not in world.nodes(federation, NODES)


def test_cooldown_refuses_and_recover_ends_it(world):
    def long_cooldown(body):
        for role in body["roles"]:
            role["cooldown"] = 600

    with world.template_with(long_cooldown), world.federation("resting", Bounds(2, 5, 3)) as made:
        world.ready(made)
        world.cloud.oneflow.scale_service(made.id, NODES, 2)
        world.until(lambda: world.state(made) == COOLDOWN)
        with pytest.raises(RefusedError, match="in state: COOLDOWN"):
            world.cloud.oneflow.delete_service(made.id)
        assert made.recover(PATIENCE).state == "RUNNING"


def test_the_python_api_deploys_and_cleans_up(world):
    with world.guests():
        name = f"{world.prefix}-api"
        with Federation.deploy(world.cloud, 3, {"FL_NUM_ROUNDS": "2"}, name, timeout=PATIENCE) as made:
            status = made.status()
            assert (status.ready, status.supernodes) == (True, 3)
            assert any(line.startswith("superlink_0: ready") for line in made.logs())
            [link] = [vm for vm in status.vms if vm.name == "superlink_0"]
            assert made.logs(vm="superlink_0").journal == world.cloud.surroundings.journal(link.ip)
            assert made.logs().journal == ""
        assert world.cloud.oneflow.service(made.id) is None
        assert str(made.id) in repr(made)


@pytest.mark.parametrize("keep", [False, True])
def test_a_deployment_that_fails_leaves_nothing_unless_asked_to(world, keep):
    name = f"{world.prefix}-fails"

    def give_up(status):
        """Wait no longer than this cloud takes to boot SuperNodes, which then stay silent."""
        if any(vm.role == NODES and vm.state == "running" for vm in status.vms):
            raise OneflowerError(f"still waiting for {status.vms[-1].name}")

    with world.guests(silent=(NODES,)), pytest.raises(OneflowerError, match="still waiting for supernode_"):
        Federation.deploy(world.cloud, 2, name=name, timeout=PATIENCE, watch=give_up, keep=keep)
    left = [made for made in Federation.all(world.cloud) if made.name == name]
    assert len(left) == keep
    for made in left:
        made.delete(PATIENCE)


def test_elasticity_follows_what_the_machines_say_of_themselves(world):
    """A number pushed through OneGate, averaged over the role; OneFlow looks every 90 s. Two policies, as `up` has."""
    policies = Policies.read([
        "FL_BUSY > 80 : +1 period=1 times=1 cooldown=1", "FL_BUSY < 5 : -1 period=1 times=1 cooldown=1"
    ], ["0 3 1 1 * = 2"])  # fmt: skip

    with (
        world.template_with(lambda body: body["roles"][1].update(policies.entries)),
        world.federation("elastic", Bounds(2, 3, 2)) as made,
    ):
        world.ready(made)

        def scaled(busy, number, saw):
            for vm in world.nodes(made, NODES):
                world.guest(vm).publish({"FL_BUSY": busy})
            with world.guests():
                world.until(lambda: len(world.nodes(made, NODES)) == number, 2 * PATIENCE)
                world.until(lambda: world.state(made) == RUNNING, 2 * PATIENCE)
            assert any(policy.saw.startswith(saw) for policy in made.status().autoscaling.policies)

        scaled("95", 3, "FL_BUSY[95.0] > 80")
        oldest = world.nodes(made, NODES)[0]
        scaled("0", 2, "FL_BUSY[0.0] < 5")
        assert oldest not in world.nodes(made, NODES)


def test_a_boot_failure_is_named_and_can_be_recovered(world):
    """If machines boot at once, there is no time to fail: then only the stepped clock tests this."""
    with world.federation("failing") as made:
        [link] = world.until(lambda: world.nodes(made, COORDINATOR))
        try:
            world.cloud.core.recover_vm(link, 0)
        except RefusedError:
            return
        with pytest.raises(OneflowerError, match=f"VM {link} of role superlink failed"):
            made.wait_ready(PATIENCE)
        world.until(lambda: world.state(made) == 7)
        with world.guests():
            assert made.recover(PATIENCE).ready
