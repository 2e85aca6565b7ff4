"""A CA that is replaced again and again while a run of real processes trains, and a node that was away meanwhile.

It is worth its seconds because nothing else has connections of every kind open across so many CAs.
"""

from __future__ import annotations

import json
import re
import threading

import pytest

from oneflower_appliance import ca_chain
from tests.flower_apps import write_app

from .conftest import until
from .test_faults import kill

pytestmark = pytest.mark.e2e

LIFE = 14  # seconds; a node has half of it to follow
LIVES = 5
APP = """
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    time.sleep(1)
    arrays = ArrayRecord([array + np.float32(1) for array in message.content["arrays"].to_numpy_ndarrays()])
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    start = ArrayRecord([np.zeros(10, dtype=np.float32)])
    strategy = FedAvg(min_train_nodes=2, min_available_nodes=2, fraction_evaluate=0.0)
    strategy.start(grid, start, num_rounds=context.run_config["rounds"])
"""


def test_five_lives_of_a_ca_pass_within_a_run_that_notices_nothing(user, tmp_path):
    app = write_app(
        tmp_path / "app", "long", {"apps": APP}, server="apps:server", client="apps:client", config="rounds=0"
    )
    user("up", "rotates", "--supernodes", "2", "--set", f"FL_CA_LIFETIME={LIFE}s", "--set", f"FL_CERT_LIFETIME={LIFE}s")
    link, *nodes = (vm["id"] for vm in user.show("rotates")["vms"])

    def made(number=link):
        path = user.machine(number) / "var" / "tls" / "ca.crt"
        return ca_chain.fingerprint(ca_chain.load(path.read_bytes(), str(path))[-1])

    first, seen = made(), set()
    rounds = LIFE * LIVES  # of a second at least
    output = []
    process = user.start("run", str(app), "-f", "rotates", "-c", f"rounds={rounds}", "-o", "json")
    reader = threading.Thread(target=lambda: output.append(process.communicate()[0]))
    reader.start()
    while reader.is_alive():
        seen.add(made())
        reader.join(1)
    assert process.returncode == 0, output
    rows = json.loads(output[0][output[0].index("\n{") :])["rows"]
    assert [(row["nodes"], row.get("faults", [])) for row in rows] == [(2, [])] * rounds
    assert len(seen - {first}) >= 2 * LIVES - 1, "one at each half of a life"
    failed = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate has expired|Connection attempt failed")
    assert not [line for line in user("logs", "rotates").stdout.splitlines() if failed.search(line)]
    # A node that is off while the CA is replaced learns of it from OneGate when it comes back.
    before = made(nodes[0])
    kill(user.process(nodes[0], "oneflower_appliance.agent", "boot"))
    until(lambda: user.is_ready("rotates") and made(nodes[0]) != before, 60, "coming back")
    # The operator has the nodes make other keys: they are the same nodes, with other ids.
    known = places(user)
    told = json.loads(user("rotate", "rotates", "--node-keys", "-o", "json").stdout)
    assert told["nodes"] == list(known)
    changed = places(user)
    assert {name: partition for name, (_, partition) in changed.items()} == {
        name: partition for name, (_, partition) in known.items()
    }
    assert not {node for node, _ in changed.values()} & {node for node, _ in known.values()}
    user("down", "rotates")


def places(user):
    nodes = [vm for vm in user.show("rotates")["vms"] if vm["role"] == "supernode"]
    return {vm["name"]: (vm["node_id"], vm["partition"]) for vm in nodes}
