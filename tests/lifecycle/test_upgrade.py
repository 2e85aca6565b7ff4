"""Another release of Flower for machines that exist, and the way back; the tests act as the guests."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from oneflower.cloud import RefusedError, upgrade
from oneflower.cloud.release_change import release_of, with_release
from oneflower.events import Note
from oneflower.opennebula import COORDINATOR, NODES, Carried, Rendering, ServiceOptions, service_template, variables_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds

OLD, NEW = "1.41.0", "1.42.0"


@pytest.fixture
def runs(monkeypatch):
    """The runs of the SuperLink, which has no API here."""
    found = []
    monkeypatch.setattr("oneflower.cloud.superlink.reach", lambda *_: nullcontext(SimpleNamespace(runs=lambda: found)))
    monkeypatch.setattr(upgrade, "_LOOK", 0.02)
    return found


@pytest.fixture
def lab(world, runs):
    with world.federation("upgrade", Bounds(2, 3, 2), FLOWER_VERSION=OLD) as made, world.guests():
        world.until(lambda: made.status().ready)
        yield made


def releases(world, federation):
    numbers = [vm for role in (COORDINATOR, NODES) for vm in world.nodes(federation, role)]
    return [world.context(vm)["FLOWER_VERSION"] for vm in numbers]


def test_every_machine_gets_the_release_and_machines_that_are_made_later_too(world, lab):
    link, *nodes = (vm for role in (COORDINATOR, NODES) for vm in world.nodes(lab, role))
    context = world.context(link)
    lab.upgrade(NEW)
    assert world.context(link) == context | {"FLOWER_VERSION": NEW}
    assert world.nodes(lab, NODES) == nodes, "they are the same machines"
    assert lab.status().settings["FLOWER_VERSION"] == NEW
    assert lab.upgrade_plan(NEW).done
    world.cloud.oneflow.scale_service(lab.id, NODES, 3)
    [fresh] = world.until(lambda: set(world.nodes(lab, NODES)) - set(nodes))
    assert world.context(fresh)["FLOWER_VERSION"] == NEW


def test_a_service_of_the_form_keeps_the_release_too():
    options = ServiceOptions(rendering=Rendering.FORM, carried=Carried(flower=OLD))
    service = service_template(options) | {"user_inputs_values": {"ONEAPP_FLOWER_TRAINING_ROUNDS": "5"}}
    assert release_of(service) == OLD
    changed = with_release(service, NEW)
    assert release_of(changed) == variables_of(changed)["FLOWER_VERSION"] == NEW
    assert release_of(service) == OLD


def test_what_was_interrupted_is_finished_by_the_same_command(world, lab):
    def interrupt(event):
        if str(event).startswith("supernode_0"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.upgrade(NEW, notify=interrupt)
    assert lab.upgrade_plan(OLD).other == NEW
    assert releases(world, lab) == [NEW, OLD, OLD]
    assert lab.upgrade_plan(OLD).moves[0].role == COORDINATOR, "it may go back, too"
    world.cloud.core.act_on_vm(world.nodes(lab, NODES)[0], "poweroff")
    world.until(lambda: lab.upgrade_plan(NEW).moves[0].off)
    lab.upgrade(NEW)
    assert (releases(world, lab), lab.status().ready) == ([NEW] * 3, True)


def test_a_dry_run_changes_nothing_and_nothing_is_begun_while_a_run_trains_or_a_machine_is_not_ready(world, lab, runs):
    before = world.body(lab)
    plan = lab.upgrade_plan(NEW)
    assert [[move.role for move in group] for group in plan.groups] == [[COORDINATOR], [NODES], [NODES]]
    assert (plan.before, plan.after, plan.done) == (OLD, NEW, False)
    assert lab.upgrade_plan(OLD).done
    assert (world.body(lab), releases(world, lab)) == (before, [OLD] * 3)
    runs.append(SimpleNamespace(id="77", finished=False))
    with pytest.raises(OneflowerError, match="trains now: run 77") as busy:
        lab.upgrade(NEW)
    runs.clear()
    world.cloud.core.act_on_vm(world.nodes(lab, NODES)[1], "suspend")
    world.until(lambda: not lab.status().ready)
    with pytest.raises(RefusedError, match="configuration cannot be updated in state SUSPENDED"):
        world.cloud.core.configure_vm(world.nodes(lab, NODES)[1], {"FL_LOG_LEVEL": "DEBUG"})
    with pytest.raises(OneflowerError, match="not ready") as unready:
        lab.upgrade(NEW)
    assert {busy.value.code, unready.value.code} == {ExitCode.CONFLICT}
    assert releases(world, lab) == [OLD] * 3


def test_all_go_back_when_the_first_supernode_does_not_become_ready(world, runs):
    said = []
    with world.federation("back", Bounds(2, 3, 2), FLOWER_VERSION=OLD) as made, world.guests({(NODES, NEW)}):
        world.until(lambda: made.status().ready)
        with pytest.raises(OneflowerError, match="It is back on Flower 1.41.0") as failed:
            made.upgrade(NEW, 0.5, said.append)
        assert failed.value.code is ExitCode.DEPLOY_FAILED
        assert releases(world, made) == [OLD] * 3
        assert made.status().ready
        assert made.upgrade_plan(OLD).done
        assert any(isinstance(event, Note) and "go back" in str(event) for event in said)
