"""A VM publishes control sequences and garbage: what the commands then print."""

from __future__ import annotations

import base64
import json

import pytest

from oneflower.cli import entry, federations, logs, shown
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import Steps
from oneflower.opennebula import COORDINATOR, NODES
from oneflower_appliance.errors import OneflowerError

ATTACK = "\x1b]0;owned\x07\x1b[2J\u202egnorw\u2066"
PLAIN = "\x1bcowned\x07\x9b2J\u202egnorw\u2066"  # without the brackets at which OneGate stumbles
STEERS = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066")


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def publish(world, vm, **values):
    """Publish as a foreign guest would: our agent's own client refuses to send such values."""
    world.until(lambda: (found := world.cloud.core.vm(vm)) and (found.state, found.lcm_state) == (3, 3))
    text = "\n".join(f"{name}={value}" for name, value in values.items())
    answer = world.raw(vm, "PUT", "/vm", content=text.encode())
    assert answer.status_code == 200, answer.text


@pytest.fixture
def commands(world, monkeypatch, capsys):
    """The commands, asking the cloud of these tests; each returns what it printed."""
    monkeypatch.setattr(Session, "cloud", classmethod(lambda _cls, *_: world.cloud))
    monkeypatch.setattr(world.cloud.surroundings, "console", lambda *_: [f"a console {ATTACK}"], raising=False)

    def printed(command, *arguments, **options):
        capsys.readouterr()
        try:
            command(*arguments, **options)
        except OneflowerError as error:
            entry.report(f"Error: {error}", error.code)
        return "".join(capsys.readouterr())

    return printed


def test_what_a_vm_publishes_reaches_no_terminal_raw(world, federation, commands, monkeypatch):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    run = {"FL_RUN_ID": PLAIN, "FL_RUN_APP": PLAIN, "FL_RUN_STATUS": PLAIN, "FL_RUN_ERROR": encoded(ATTACK)}
    fault = {"round": 1, "node": ATTACK, "phase": ATTACK, "kind": ATTACK, "reason": ATTACK}
    publish(
        world,
        link,
        FL_ENDPOINT=PLAIN,
        FL_CONTROL_ENDPOINT=PLAIN,
        FL_VERSION=PLAIN,
        FL_RUN_FAULT=encoded(json.dumps(fault)),
        READY="YES",
        **run,
    )
    node, other = world.until(lambda: world.nodes(federation, NODES))
    publish(world, node, FL_ERROR=encoded(ATTACK), READY="NO")
    publish(
        world,
        other,
        FL_ERROR=encoded(ATTACK),
        READY="NO",
        FL_PARTITION_ID=PLAIN,
        FL_NUM_PARTITIONS=PLAIN,
        FL_NODE_ID=PLAIN,
    )
    answered = world.cloud.core.vms

    def vms(numbers):
        """The core's answers about names and waiting VMs, which no guest writes."""
        found = answered(numbers)
        for vm in found.values():
            vm.name = f"name {ATTACK}"
        if waiting := found.get(node):
            waiting.state, waiting.attributes = 1, {"SCHED_MESSAGE": f"waits {ATTACK}"}
        return found

    monkeypatch.setattr(world.cloud.core, "vms", vms)
    name = federation.name
    said = {
        "ls": commands(shown.list_all),
        "show": commands(shown.show, name),
        "logs": commands(logs.logs, name),
        "ls -o json": commands(shown.list_all, Output.JSON),
        "show -o json": commands(shown.show, name, Output.JSON),
        "recover": commands(federations.recover, name, 1),
    }
    assert {command: [mark for mark in STEERS if mark in text] for command, text in said.items()} == {
        command: [] for command in said
    }
    assert "waits" in said["show"]
    assert all("owned" in text for text in said.values()), "what was published is shown all the same, written out"
    assert json.loads(said["show -o json"])["name"] == name


def test_what_a_vm_publishes_as_its_reason_reaches_no_terminal_raw_while_up_waits(world, commands):
    watch = Steps.watch

    def publishing(steps, status):
        for vm in status.vms:
            if vm.role == COORDINATOR and not vm.error:
                world.report(vm.id, FL_ERROR=encoded(ATTACK), READY="NO")
        watch(steps, status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "watch", publishing)
        said = commands(federations.deploy, world.cloud, f"{world.prefix}-steered", 2, {}, (None, None), 30, keep=False)
    assert "superlink_0: " in said
    assert "a console" in said
    assert [mark for mark in STEERS if mark in said] == []


def test_garbage_of_one_vm_hides_no_federation(world, federation, commands):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    world.report(link)
    nodes = world.until(lambda: world.nodes(federation, NODES))
    for number, node in enumerate(nodes):
        publish(
            world,
            node,
            FL_PARTITION_ID="x" * number,
            FL_NUM_PARTITIONS="many" * (number + 1),
            FL_ERROR="é",
            READY="YES",
        )
    assert federation.name in commands(shown.list_all)
    assert "supernode_0" in commands(shown.show, federation.name)


def test_what_scale_and_show_say_of_the_share_of_the_data(world, commands):
    with world.federation("share") as made:
        world.ready(made)
        for number, node in enumerate(world.nodes(made, NODES)):
            publish(world, node, FL_PARTITION_ID=str(number + 2), FL_NUM_PARTITIONS="4", READY="YES")
        line = "Note: Only partitions 2 and 3 of 4 take part: 50% of the data."
        assert line in commands(shown.show, made.name)
        with world.guests():
            assert "Note: Only partition" not in commands(federations.scale, made.name, 3, 60)
        [*_, new] = world.nodes(made, NODES)
        publish(world, new, FL_PARTITION_ID="1", FL_NUM_PARTITIONS="4", READY="YES")
        world.until(lambda: world.state(made) == 2)
        assert "Note: Only partitions 2 and 3 of 4 take part" not in commands(shown.show, made.name)
        with world.guests():
            said = commands(federations.scale, made.name, 2, 60)
        assert "Note: Only partitions 1 and 3 of 4 take part: 50% of the data." in said


def test_scaling_below_what_a_round_waits_for_is_refused_and_removes_nothing(world, commands):
    with world.federation("rounds", FL_MIN_AVAILABLE_CLIENTS="2") as made:
        world.ready(made)
        before = world.nodes(made, NODES)
        said = commands(federations.scale, made.name, 1, 60)
        assert "cannot have 1 SuperNodes" in said
        assert "Removing" not in said
        assert world.nodes(made, NODES) == before
