"""Three sites behind networks as they are, in network namespaces, with a coordinator and an app whose steps a test sees.

- north: an address translation (NAT) and a firewall that lets out TCP 443 only; 1 Mbit/s, 200 ms, 2 % of packets lost
- south: no way out but an HTTP proxy; fast, with 1 Mbit/s to the outside
- east: a firewall that lets out TCP 443 only
- the coordinator: a router that passes TLS on by its name, on port 443
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.flower_apps import write_app

from .conftest import User
from .namespaces import NameRouter, Namespace, Wire
from .networks import HttpProxy

NAME, LAB, ROUTER = "lab.example", "203.0.113.2", "203.0.113.1"
NODES = {"north": 1, "south": 2, "east": 1}
LINES = {
    "north": {"delay": 0.1, "loss": 0.02, "up": "1mbit", "down": "1mbit"},
    "south": {"up": "1mbit"},
    "east": {},
}
FIREWALL = """
table inet firewall {
 chain forward {
  type filter hook forward priority 0; policy drop
  ct state established,related accept
  ip saddr { 10.1.0.2, 10.3.0.2 } tcp dport 443 accept
 }
}
table ip translation {
 chain postrouting {
  type nat hook postrouting priority 100
  ip saddr 10.0.0.0/8 masquerade
 }
}
"""
CONFIG = """
notes = ""
rounds = 2
timeout = 3600.0
size = 1000
held = ""
hangs = ""
"""
APP = """
import os
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.05)

@client.train()
def train(message, context):
    name = f"{context.node_config['site']}-{context.node_config['partition-id']}"
    number = message.content["config"]["server-round"]
    notes = context.run_config["notes"]
    open(f"{notes}/{name}-trains-{number}", "w").close()
    if name in context.run_config["held"].split() and number == 1:
        wait_for(f"{notes}/{name}-continues")
    if name == context.run_config["hangs"] and number == 1:
        wait_for(f"{notes}/never")
    arrays = [array + np.float32(1) for array in message.content["arrays"].to_numpy_ndarrays()]
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    config = context.run_config
    with open(f"{config['notes']}/run", "w") as file:
        file.write(str(context.run_id))
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=4)
    start = ArrayRecord([np.random.default_rng(1).random(config["size"] // 4, dtype=np.float32)])
    strategy.start(grid, start, num_rounds=config["rounds"], timeout=config["timeout"])
"""


class World:
    """The coordinator's user, those of the sites, and the line of each site. `end` closes what it opens."""

    def __init__(self, folder, end):
        def kept(what):
            end.callback(what.close)
            return what

        self._folder, self._router = folder, None
        self.lab = kept(Namespace("lab"))
        self.internet = kept(Namespace("internet", {NAME: LAB}))
        self.spaces = {site: kept(Namespace(site, {NAME: LAB})) for site in NODES}
        inside = f"lab{os.getpid()}"
        self.internet.ip("link", "add", "to-lab", "type", "veth", "peer", "name", inside)
        self.internet.ip("link", "set", inside, "netns", self.lab.name)
        for space, device, address in ((self.internet, "to-lab", ROUTER), (self.lab, inside, LAB)):
            space.ip("address", "add", f"{address}/24", "dev", device)
            space.ip("link", "set", device, "up")
        self.lab.ip("route", "add", "default", "via", ROUTER)
        self.internet.forward()
        self.internet.nft(FIREWALL)
        self.wires = {
            site: kept(Wire((self.spaces[site], f"10.{number}.0.2"), (self.internet, f"10.{number}.0.1"), **line))
            for number, (site, line) in enumerate(LINES.items(), 1)
        }
        self.proxy = kept(HttpProxy(folder, [443], self.internet, "10.2.0.1"))
        spaces = {"lab": self.lab, **self.spaces}
        self.users = {name: User(folder / name, space.within) for name, space in spaces.items()}
        for user in self.users.values():
            user.folder.mkdir()
        end.callback(self._leave)

    def _leave(self):
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(User.leave, self.users.values()))
        if self._router:
            self._router.close()

    def join(self, settings):
        """Deploy the coordinator, and all sites at the same time, each with its settings. Each is admitted at once."""
        lab, joining = self.users["lab"], []
        lab("up", "lab", "--kind", "coordinator", *sets(FL_CERT_EXTRA_SAN=f"DNS:{NAME}", FL_ROUND_QUORUM="3"))
        targets = {NAME: lab.show("lab")["endpoint"]}
        self._router = NameRouter(self._folder, self.lab, LAB, (443, 8443), targets)
        for site, nodes in NODES.items():
            file = str(self._folder / f"{site}.invitation")
            what = ("--site", site, "--nodes", str(nodes), "--endpoint", f"{NAME}:443", "--approve", "--file", file)
            lab("invite", "lab", *what)
            joining.append(self.users[site].start("join", file, *sets(**settings.get(site, {}))))
        for process in joining:
            said, _ = process.communicate(timeout=120)
            assert (process.returncode, "has joined" in said) == (0, True), said

    def nodes(self):
        """The nodes of the federation, by name."""
        found = json.loads(self.users["lab"]("sites", "lab", "-o", "json").stdout)
        return {node["name"]: node for site in found for node in site["nodes"]}

    def log(self, run):
        """Return what the ServerApp of a run logged."""
        return self.users["lab"]("logs", "lab", "--run", run).stdout


def sets(**settings):
    """Return the arguments that set variables."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


class Run:
    """A run of the app, with the files by which the app says what it does and is told to continue."""

    def __init__(self, world, folder, held="", **config):
        self._world, self._held, self.notes = world, held, folder / "notes"
        self.notes.mkdir()
        app = write_app(folder / "app", "far", {"apps": APP}, server="apps:server", client="apps:client", config=CONFIG)
        given = {"notes": str(self.notes), "held": held, **config}
        words = " ".join(f"{name}={value!r}" for name, value in given.items())
        self._process = world.users["lab"].start("run", str(app), "-f", "lab", "-o", "json", "-c", words)
        self._output = []
        self._reader = threading.Thread(target=lambda: self._output.append(self._process.communicate()[0]))
        self._reader.start()

    def has(self, note):
        """Whether the app wrote a note. The run has not ended."""
        assert not self._output, self._output
        return (self.notes / note).exists()

    def tell(self, note):
        """Let the app continue."""
        (self.notes / note).touch()

    def log(self):
        """Return what its ServerApp logged."""
        number = (self.notes / "run").read_text() if self.has("run") else ""
        return self._world.log(number) if number else ""

    def rows(self):
        """Return what it did in each round, once it has ended."""
        self._reader.join(120)
        [said] = self._output
        assert self._process.returncode == 0, said
        return json.loads(said[said.index("\n{") :])["rows"]

    def end(self):
        """Let it end."""
        for node in self._held.split():
            self.tell(f"{node}-continues")
        self._reader.join(60)
