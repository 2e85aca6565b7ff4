"""A SuperNode on a small machine: 512 MB and half a core, from its boot to a trained model.

It is worth its seconds because nothing else shows that what a node needs fits: the kernel ends what does not.
"""

from __future__ import annotations

import json
import threading

import pytest

from .conftest import until
from .limits import Limits, megabytes, why_not
from .test_faults import kill

pytestmark = pytest.mark.e2e

MEMORY, CORES = 512 << 20, 0.5
IDLE, TRAINING = 105, 250  # megabytes; 94 and 193 were measured
ROUNDS = 6


def test_a_machine_with_512_mb_and_half_a_core_boots_and_trains(user):
    if reason := why_not():
        pytest.skip(reason)
    user("up", "small", "--supernodes", "2", "--set", "FL_PROFILE=edge")

    def shown():
        return next(vm for vm in user.show("small")["vms"] if vm["name"] == "supernode_1")

    node = shown()
    init = user.process(node["id"], "init.py")  # part of the machine that it has instead of a kernel

    def on_it():
        return [process for process in user.processes(node["id"]) if process.pid != init.pid]

    with Limits("oneflower-test", MEMORY, CORES) as limits:
        limits.hold(init)
        # It boots again, and now within the limits.
        kill(user.process(node["id"], "oneflower_appliance.agent", "boot", without=("init.py",)))
        until(lambda: user.is_ready("small") and shown()["ready_since"] != node["ready_since"], 120, "the boot")
        idle = megabytes(on_it())
        assert all(limits.holds(process) for process in on_it())
        process = user.start(
            "run", "image-classification", "-f", "small", "-c", f"num-server-rounds={ROUNDS}", "-o", "json"
        )
        output = []
        reader = threading.Thread(target=lambda: output.append(process.communicate()[0]))
        reader.start()
        most = 0
        while reader.is_alive():
            most = max(most, megabytes(on_it()))
            reader.join(0.2)
        assert process.returncode == 0, output
        rows = json.loads(output[0][output[0].index("\n{") :])["rows"]
        assert [(row["nodes"], row.get("faults", [])) for row in rows] == [(2, [])] * ROUNDS
        assert limits.killed == 0
        assert idle < IDLE
        assert most < TRAINING
        user("down", "small")
