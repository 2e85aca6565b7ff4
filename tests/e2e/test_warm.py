"""Warm execution on real processes: the results of stock Flower, and what happens when its processes end early."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.intruder import as_another_user

from .conftest import until
from .test_faults import FLOWER, kill
from .test_survival import training
from .test_training import app  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e

LONG = ("-c", "local-epochs=8000")  # a few seconds of training
SUPEREXEC, TASK = "flower-superexe", "flwr-clientapp"  # as the kernel keeps names


@pytest.fixture(scope="module")
def fed(user):
    user("up", "warm", "--set", "FL_LOG_LEVEL=DEBUG")  # its logs name the requests
    yield "warm"
    user("down", "warm")


def named(user, number, name):
    """The processes of a machine that the kernel knows by a name."""
    found = []
    for process in user.processes(number):
        try:
            if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def node(user):
    return user.show("warm")["vms"][1]["id"]


def result_of(done):
    return json.loads(done.stdout)


def while_training(user, number, act, *more, busy=None):
    """Run two long rounds, do something while a node has a task, and return the result."""
    long = more or LONG
    process = user.start("run", "image-classification", "-f", "warm", "--rounds", "2", "-o", "json", *long)
    output = []
    reader = threading.Thread(target=lambda: output.append(process.communicate(timeout=300)[0]))
    reader.start()
    try:
        until(busy or (lambda: training(user, number)), 30, "training")
        time.sleep(1)  # of several seconds
        act()
    finally:
        reader.join()
    assert process.returncode == 0, output[0]
    return json.loads(output[0][output[0].index("\n{") :])


def refuse_another_user(user, name):
    """Another user of this machine can start no run at a SuperLink, and take and answer no task at a SuperNode."""
    status = user.show(name)
    tasks = f"http://{status['vms'][1]['ip']}:9094/v1/runtime"
    control = f"https://{status['control']}"
    wanted = [f"{tasks}/{call}" for call in ("acquire-task", "pull-task-input", "pull-object", "push-object")]
    wanted += [f"{control}{path}" for path in ("/v1/control/start-run", "/oneflower/runs")]

    with user.client(status) as client:

        def ask(**headers):
            headers = {"content-type": "application/protobuf", **headers}
            return [client.post(url, content=b"", headers=headers).status_code for url in wanted]

        assert as_another_user(ask) == ask(host="rebound.example") == [403] * len(wanted)
        assert 403 not in ask()


OBJECTS = ("pull-objects", "push-objects", "pull-shared-objects", "push-shared-objects", "pull-object", "push-object",
           "pull-whole-messages", "push-whole-messages")  # fmt: skip


def object_requests(user, name):
    """The kinds of requests for objects that the SuperLink and the SuperNodes of a federation have answered."""
    link, *nodes = (user.machine(vm["id"]) / "console.log" for vm in user.show(name)["vms"])
    return {
        (where, api, call)
        for where, consoles in (("link", [link]), ("node", nodes))
        for console in consoles
        for api, call in re.findall(r'"POST /v1/(\w+)/([a-z-]+) HTTP/1.1" 200', console.read_text())
        if call in OBJECTS
    }


def test_results_are_those_of_stock_flower_to_the_last_digit(user, fed):
    def rows(name):
        done = result_of(user("run", "image-classification", "-f", name, "--rounds", "2", "-o", "json"))
        return [(row["loss"], row["accuracy"]) for row in done["rows"]]

    refuse_another_user(user, fed)
    warm = rows(fed)
    # Each message moves with its objects, in shared memory on one machine. Otherwise each call for one object would do it,
    # more slowly and without a word. If both replies are there at once, the objects of the second come by themselves.
    whole = {
        (where, api, f"{call}-whole-messages")
        for where, api in (("link", "fleet"), ("link", "runtime"), ("node", "runtime"))
        for call in ("pull", "push")
    }
    assert object_requests(user, fed) - {("link", "runtime", "pull-shared-objects")} == whole
    user("up", "stock", "--set", "FL_EXECUTION=stock")
    try:
        for vm in user.show("stock")["vms"]:
            superexec = user.process(vm["id"], "flower-superexec")
            assert "flower-superexec" in " ".join(superexec.cmdline()), "a separate program, not a fork"
            superexec.kill()  # it is started again; no task would ever begin without it
        refuse_another_user(user, "stock")
        assert rows("stock") == warm
    finally:
        user("down", "stock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a SuperExec has in memory")
def test_only_the_superlink_itself_has_a_database_in_memory(user, fed):
    def with_database(number):
        return [p.pid for p in user.processes(number) if "/sqlalchemy/" in Path(f"/proc/{p.pid}/maps").read_text()]

    link = user.show("warm")["vms"][0]["id"]
    assert named(user, node(user), SUPEREXEC)
    assert with_database(node(user)) == []
    (superexec,) = named(user, link, SUPEREXEC)
    behind = superexec.parent()
    assert with_database(link) == [behind.ppid()]


def test_a_superexec_that_is_killed_is_started_again_and_its_task_goes_on(user, fed):
    number = node(user)
    (before,) = named(user, number, SUPEREXEC)
    result = while_training(user, number, lambda: kill(before))
    assert [row["failures"] for row in result["rows"]] == [0, 0]
    (after,) = named(user, number, SUPEREXEC)
    assert after.pid != before.pid
    assert "it is started again" in (user.machine(number) / "console.log").read_text()


def test_a_clientapp_that_is_killed_costs_its_node_the_round_which_says_so_at_once(user, fed):
    number = node(user)
    result = while_training(user, number, lambda: kill(named(user, number, TASK)[0]))
    assert [row["failures"] for row in result["rows"]] == [1, 0]
    [fault] = result["rows"][0]["faults"]
    assert fault["name"] == "supernode_0"
    assert fault["reason"] == f"The ClientApp of node {fault['node']} was ended by signal 9."
    assert result["rows"][0]["seconds"] < result["rows"][1]["seconds"] + 30, "Flower's own path takes a minute more"


def started(user, *arguments):
    """A run that a node trains for."""
    process, lines = user.say("run", "image-classification", "-f", "warm", *arguments)
    until(lambda: any(line.startswith("  run ") for line in lines), 60, "the submission")
    until(lambda: named(user, node(user), TASK), 30, "a ClientApp")
    until(lambda: training(user, node(user)), 30, "training")
    return process, lines


def test_a_serverapp_that_is_killed_is_spoken_of_at_once_with_what_would_have_saved_its_run(user, fed):
    link = user.show(fed)["vms"][0]["id"]
    process, lines = started(user, *LONG)
    kill(named(user, link, "flwr-serverapp")[0])
    assert process.wait(30) == 8, "Flower's own path takes more than a minute"
    told = lines.all()
    assert "was lost before its first round had ended. Its ServerApp was ended by signal 9." in told
    assert "with FL_CHECKPOINT_ENABLED=YES it would be resumed" in told
    # Its nodes are free at once, too.
    assert len(result_of(user("run", "image-classification", "-f", fed, "--rounds", "1", "-o", "json"))["rows"]) == 1


def test_a_superlink_that_is_silent_is_spoken_of_and_its_run_is_lost_with_a_reason(user, fed):
    link = user.show(fed)["vms"][0]["id"]
    process, lines = started(user, *LONG)
    os.kill(user.process(link, FLOWER, "superlink").pid, signal.SIGSTOP)
    until(lambda: any("Its machine, VM" in line for line in lines), 30, "a word of it")
    kill(user.process(link, FLOWER, "superlink"))
    assert process.wait(180) == 8
    told = lines.all()
    assert "The SuperLink has not answered for" in told
    assert "the SuperLink answers again" in told
    assert "Its SuperLink was started again." in told
    assert "with FL_CHECKPOINT_ENABLED=YES it would be resumed" in told
    until(lambda: user.is_ready(fed), 150, "recovery")


HALF_A_REPLY = """
def stop_half_way():
    import time
    from oneflower_appliance.flower.warm import bundle_client
    hand, parts = bundle_client._hand, []
    def handing(*args):
        parts.append(args)
        if len(parts) == 3:
            time.sleep(600)
        return hand(*args)
    bundle_client._hand = handing
"""


def test_a_node_that_is_killed_in_the_middle_of_its_reply_costs_the_round_no_more_than_its_way_back(user, fed, app):  # noqa: F811
    """Flower itself waits three minutes for the rest. Its ClientApp hands over two of four parts, so there is no rest."""
    code = app / "minimal" / "apps.py"
    slow = '    if context.node_config["partition-id"] == 0:\n        stop_half_way()\n    arrays += '
    code.write_text(code.read_text().replace("    arrays += ", slow) + HALF_A_REPLY)
    link, *nodes = user.show(fed)["vms"]
    [victim] = [node for node in nodes if node["partition"] == "0"]
    console = user.machine(link["id"]) / "console.log"
    before = len(console.read_text())

    def after(text):
        """What the SuperLink said after a text, None if it has not said that."""
        return next(iter(console.read_text()[before:].split(text, 1)[1:]), None)

    process, lines = user.say("run", str(app), "-f", fed, "--log", "-o", "json", "--config", "grown=8000000")
    sending = f"Push replies from node_id={victim['node_id']}"
    until(lambda: "/v1/fleet/push-objects " in (after(sending) or ""), 60, "half a reply")
    kill(user.process(victim["id"], FLOWER, "supernode"))
    until(lambda: after("/v1/fleet/deactivate-node "), 60, "its way back")
    known = time.monotonic()
    until(lambda: any("aggregate_train: Received" in line for line in lines), 60, "the end of the round")
    assert time.monotonic() - known < 5
    assert process.wait(120) == 0, lines.all()
    said = lines.all()
    [row] = json.loads(said[said.index("\n{") :])["rows"]
    assert (row["nodes"], row["failures"], row["faults"][0]["name"]) == (1, 1, victim["name"])
    until(lambda: user.is_ready(fed), 60, "recovery")


def test_a_run_that_is_stopped_ends_its_serverapp_and_its_clientapps_and_the_nodes_work_on(user, fed):
    link, number = (vm["id"] for vm in user.show(fed)["vms"][:2])
    process, _ = started(user, "-c", "local-epochs=1000000")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    until(lambda: not named(user, link, "flwr-serverapp"), 30, "the end of the ServerApp")
    until(lambda: not named(user, number, TASK), 30, "the end of the ClientApp, which would work for hours")
    assert len(result_of(user("run", "image-classification", "-f", fed, "--rounds", "1", "-o", "json"))["rows"]) == 1


def test_an_app_is_run_as_it_is_now_also_beside_another_version_of_it(user, fed, app):  # noqa: F811
    def losses(done):
        return [row["train_loss"] for row in result_of(done)["rows"]]

    def change(loss):
        code = app / "minimal" / "apps.py"
        text = code.read_text()
        code.write_text(text.replace(text.split('"train_loss": ')[1].split(",")[0], str(loss)))

    def train():
        return user("run", str(app), "-f", fed, "--rounds", "2", "-o", "json")

    assert losses(train()) == [0.5, 0.5]
    change(0.25)
    assert losses(train()) == [0.25, 0.25]
    running = user.start("run", "image-classification", "-f", fed, "--rounds", "2", *LONG)
    change(0.125)
    assert losses(train()) == [0.125, 0.125]
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output


def test_secure_aggregation_learns_without_a_node_that_is_killed_after_it_shared_its_keys(user, fed):
    """Worth its seconds: four exchanges a round, with state at the nodes between them, through real processes."""
    user("scale", fed, "4")
    number = node(user)
    console = user.machine(number) / "console.log"
    before = console.read_text().count("Receiving: train")

    def asked_for_its_update():
        return console.read_text().count("Receiving: train") - before >= 3 and training(user, number)

    chosen = ("local-epochs=6000", "secure-aggregation=YES", "min-train-nodes=3", "min-available-nodes=4")
    words = [word for each in chosen for word in ("-c", each)]
    result = while_training(user, number, lambda: kill(named(user, number, TASK)[0]), *words, busy=asked_for_its_update)
    rows = result["rows"]
    assert [(row["nodes"], row["asked"]) for row in rows] == [(3, 4), (4, 4)]
    [fault] = rows[0]["faults"]
    assert (fault["name"], fault["reason"]) == (
        "supernode_0", f"The ClientApp of node {fault['node']} was ended by signal 9.",
    )  # fmt: skip
    assert rows[-1]["accuracy"] > 0.9
    user("scale", fed, "2")
