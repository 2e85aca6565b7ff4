"""A campaign of kills: every process of a federation, in every phase of a run, in an order that a seed decides.

The app counts: each node adds one to every number of the model, so after N rounds the model is N, whichever nodes took
part. A round that is lost, repeated or built on half a reply shows in the result, to the last digit. The app records
what it does, so the campaign knows the phase of a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import psutil

from oneflower.cloud import Cloud, Endpoints, Federation
from oneflower.local import daemon
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from tests.flower_apps import write_app

if TYPE_CHECKING:
    from collections.abc import Iterable

ROUNDS, UNDISTURBED = 7, 3
NODES = 2
KINDS = ("SuperLink", "its agent", "its init", "its SuperExec", "ServerApp",
         "SuperNode", "a node's agent", "a node's init", "a node's SuperExec", "ClientApp", "daemon")  # fmt: skip
PHASES = ("between rounds", "train", "push of the reply", "checkpoint", "evaluate", "last evaluation")
_ALWAYS = 5.0  # seconds within which an undisturbed round ends, however busy this machine is
_LONGEST = 100.0
SHORT = 5.0  # seconds that a kill should cost at most
_PER_RUN = 6
_WITH_AGENT, _WITH_INIT, _WITH_FLOWER = "boot", "init", "oneflower_appliance.flower.main"

CONFIG = """\
num-server-rounds = 7
marks = "{marks}"
hold = "{hold}"
"""
APP = {
    "__init__": """
import json, os

def mark(context, what, number):
    line = json.dumps({"what": what, "round": number, "pid": os.getpid()}) + "\\n"
    handle = os.open(context.run_config["marks"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)
""",
    "client": """
import time
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from counting import mark

app = ClientApp()

def number_of(message):
    return message.content["config"]["server-round"]

@app.train()
def train(message, context):
    mark(context, "train", number_of(message))
    time.sleep(0.15)
    arrays = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"train_loss": 1.0, "num-examples": 1})
    reply = Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
    mark(context, "push of the reply", number_of(message))
    return reply

@app.evaluate()
def evaluate(message, context):
    mark(context, "evaluate", number_of(message))
    time.sleep(0.15)
    count = float(message.content["arrays"].to_numpy_ndarrays()[0].mean())
    metrics = MetricRecord({"accuracy": count / 100, "loss": 100 - count, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
""",
    "server": """
import time
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from counting import mark

app = ServerApp()

def held(context):
    try:
        with open(context.run_config["hold"]) as file:
            return int(file.read())
    except FileNotFoundError:
        return 1000

@app.main()
def main(grid, context):
    class Marking(FedAvg):
        def configure_train(self, number, *args, **kwargs):
            while number > held(context):
                time.sleep(0.02)
            mark(context, "between rounds", number)
            return super().configure_train(number, *args, **kwargs)

        def aggregate_train(self, number, replies):
            result = super().aggregate_train(number, replies)
            mark(context, "checkpoint", number)
            return result

    # Flower counts how many nodes it asks before it waits for them, so that it would ask fewer while one is away.
    Marking(min_available_nodes=NODES, min_train_nodes=NODES, min_evaluate_nodes=NODES).start(
        grid, ArrayRecord([np.zeros(500_000)] * 2), num_rounds=context.run_config["num-server-rounds"])
""",
}


@dataclass(frozen=True)
class Plan:
    """What to kill, and when: in a phase, `after` seconds into it."""

    kind: str
    phase: str
    node: int
    after: float


@dataclass
class Kill:
    """A kill, and how much later than usual the round that it hit, or the next one, ended."""

    plan: Plan
    delay: float
    waited: float  # for its phase
    settled: float  # until the federation was complete again


@dataclass
class Report:
    """The results of a campaign."""

    seeds: list[int]
    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return (
            [f"lost: {text}" for text in self.lost]
            + [f"wrong: {text}" for text in self.wrong]
            + [f"orphan: {text}" for text in self.orphans]
        )

    @property
    def text(self) -> str:
        """The report as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, lines: Iterable[str]) -> Report:
        """Return the results of several campaigns as one report."""
        merged = cls([])
        for entry in map(json.loads, lines):
            entry["kills"] = [Kill(Plan(**kill.pop("plan")), **kill) for kill in entry["kills"]]
            for name, value in entry.items():
                setattr(merged, name, getattr(merged, name) + value)
        return merged

    @property
    def table(self) -> str:
        """The kills as a table in Markdown: how many, and in brackets the longest delay in seconds."""
        lines = ["| killed | " + " | ".join(PHASES) + " | longest delay |", "| --- |" + " --- |" * (len(PHASES) + 1)]
        for kind in KINDS:
            cells = []
            for phase in PHASES:
                delays = [kill.delay for kill in self.kills if (kill.plan.kind, kill.plan.phase) == (kind, phase)]
                cells.append(f"{len(delays)} ({max(delays):.1f} s)" if delays else "-")
            of_kind = [kill.delay for kill in self.kills if kill.plan.kind == kind]
            lines.append(f"| {kind} | " + " | ".join(cells) + f" | {max(of_kind, default=0):.1f} s |")
        delays = [kill.delay for kill in self.kills]
        sentence = (
            f"{len(delays)} kills in {self.runs} runs of {ROUNDS} rounds (seeds {', '.join(map(str, self.seeds))}): "
            f"runs lost {len(self.lost)}, wrong or silent results {len(self.wrong)}, orphans {len(self.orphans)}; "
            f"median delay {statistics.median(delays or [0]):.1f} s, longest {max(delays, default=0):.1f} s, "
            f"{sum(delay <= SHORT for delay in delays)} not longer than {SHORT:.0f} s."
        )
        return "\n".join([*lines, "", sentence])


def plans(kills: int, seed: int) -> list[Plan]:
    """Choose what to kill: every process and every phase before anything twice."""
    chance = random.Random(seed)
    possible = [
        (kind, phase)
        for kind, phase in product(KINDS, PHASES)
        if kind != "ClientApp" or phase not in ("between rounds", "checkpoint")  # there is none then
    ]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < kills:
        left = possible[:]
        chance.shuffle(left)
        # The rarest so far come first; `sort` keeps the random order of the rest.
        while left and len(chosen) < kills:
            left.sort(
                key=lambda pair: sum(kind == pair[0] for kind, _ in chosen) + sum(p == pair[1] for _, p in chosen)
            )
            chosen.append(left.pop(0))
    return [
        Plan(
            kind,
            phase,
            chance.randrange(NODES),
            chance.uniform(0, 0.12 if phase == "train" else 0.02 if kind == "ClientApp" else 0.1),
        )
        for kind, phase in chosen
    ]


def _end(pid: int) -> bool:
    """Kill a process. Returns whether it was there."""
    with suppress(ProcessLookupError, psutil.Error):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


class Campaign:
    """A federation in which processes are killed."""

    def __init__(self, user, say=print):
        self._user = user
        self._say = say
        self._marks, self._hold = user.folder / "marks.jsonl", user.folder / "hold"
        config = CONFIG.format(marks=self._marks, hold=self._hold)
        modules = {name: text.replace("NODES", str(NODES)) for name, text in APP.items()}
        self._app = write_app(
            user.folder / "counting-app", "counting", modules, server="server:app", client="client:app", config=config
        )
        self._seen: dict[int, float] = {}
        self._usual = 1.0

    def run(self, kills: int, seed: int, seconds: float = float("inf")) -> Report:
        """Deploy, run once undisturbed, then kill. No run begins after `seconds`."""
        report, deadline = Report([seed]), time.monotonic() + seconds
        self._user("up", "camp", "--set", "FL_CHECKPOINT_ENABLED=YES", "--set", "FL_CHECKPOINT_INTERVAL=1",
                   "--set", f"FL_MIN_AVAILABLE_CLIENTS={NODES}")  # fmt: skip
        try:
            self._link, *self._nodes = (vm["id"] for vm in self._user.show("camp")["vms"])
            rows = self._one_run([], report, UNDISTURBED)
            self._usual = statistics.median(row["seconds"] for row in rows)
            left = plans(kills, seed)
            while left and time.monotonic() < deadline:
                last = [plan for plan in left if plan.phase == "last evaluation"][:1]
                batch = [plan for plan in left if plan.phase != "last evaluation"][: _PER_RUN - 1] + last
                left = [plan for plan in left if plan not in batch]
                self._one_run(batch, report)
        finally:
            self._user("down", "camp", code=None)
        report.orphans = self._orphans()
        return report

    def _one_run(self, batch: list[Plan], report: Report, rounds: int = ROUNDS) -> list[dict]:
        self._marks.write_text("")
        self._done = 0
        process = self._user.start(
            "run", str(self._app), "-f", "camp", "-c", f"num-server-rounds={rounds}", "-o", "json"
        )
        output: list[str] = []

        def read():
            with process.stdout:
                for line in process.stdout:
                    output.append(line)
                    if f"/{rounds} " in line and line.split()[0].endswith(f"/{rounds}"):
                        self._done = int(line.split("/")[0])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for plan in batch:
            if process.poll() is not None:
                report.wrong.append(f"{plan}: the run had ended before its turn")
                break
            if kill := self._strike(plan, process):
                report.kills.append(kill)
                times = f"{kill.delay:.1f} s (after {kill.waited:.1f} s; whole {kill.settled:.1f} s later)"
                self._say(f"  {plan.kind}, {plan.phase}: {times}")
        self._hold.unlink(missing_ok=True)
        try:
            process.wait(_LONGEST + rounds * (self._usual + _ALWAYS))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        reader.join(10)
        report.runs += bool(batch)
        return self._judge(process.returncode, "".join(output), batch, report, rounds)

    def _judge(self, status: int, text: str, batch: list[Plan], report: Report, rounds: int) -> list[dict]:
        what = "; ".join(f"{plan.kind}, {plan.phase}" for plan in batch) or "undisturbed"
        try:
            result = json.loads(text[text.index("\n{") :])
        except ValueError:
            report.lost.append(f"[{what}] exit {status}: {text[-1500:]}")
            return [{"seconds": 1.0}]
        rows = result["rows"]
        if status or [row["round"] for row in rows] != list(range(1, rounds + 1)):
            report.lost.append(f"[{what}] exit {status}, rounds {[row['round'] for row in rows]}")
        for row in rows:
            for phase, answered in (("train", row["nodes"]), ("evaluate", row["metrics"]["evaluated"])):
                named = [f["node"] for f in row["faults"] if f["phase"] == phase and f["node"] and f["reason"]]
                if answered + len(set(named)) != NODES or len(named) != len(set(named)):
                    report.wrong.append(f"[{what}] a reply in {phase} is missing in silence: {row}")
            if row.get("accuracy") != row["round"] / 100:
                report.wrong.append(f"[{what}] round {row['round']} has accuracy {row.get('accuracy')}: {row}")
        if result.get("model") is None:
            report.wrong.append(f"[{what}] no model")
        else:
            model = np.load(self._user.folder / result["model"])
            if not all((model[name] == rounds).all() for name in model.files):
                report.wrong.append(f"[{what}] the model is {[model[name].flat[0] for name in model.files]}")
        return rows

    def _strike(self, plan: Plan, process) -> Kill | None:
        """Wait for the phase, kill, and wait for the run to continue."""
        offset, began = self._marks.stat().st_size, time.monotonic()
        self._hold.unlink(missing_ok=True)
        deadline = time.monotonic() + _LONGEST
        while process.poll() is None and time.monotonic() < deadline:
            marks, offset = self._new_marks(offset)
            for mark in marks:
                if self._is(mark, plan.phase) and (kill := self._kill(plan, mark, process, began)):
                    return kill
            time.sleep(0.005)
        return None

    def _kill(self, plan: Plan, mark: dict, process, waiting: float) -> Kill | None:
        """Kill, unless the process has ended by itself."""
        victims = self._victims(plan, mark)
        time.sleep(plan.after)
        write_atomic(self._hold, str(mark["round"]))  # the rounds after this one wait for the next kill
        if not any(_end(victim) for victim in victims):
            self._hold.unlink()
            return None
        began = time.monotonic()
        if plan.kind == "daemon":
            self._user("ls")
        while self._done < mark["round"] and process.poll() is None and time.monotonic() - began < _LONGEST:
            time.sleep(0.05)
        done = time.monotonic()
        self._settle()
        return Kill(plan, max(0.0, done - began - self._usual), began - waiting, time.monotonic() - done)

    def _new_marks(self, offset: int) -> tuple[list[dict], int]:
        with self._marks.open() as stream:
            stream.seek(offset)
            text = stream.read()
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], offset + len(whole)

    def _is(self, mark: dict, phase: str) -> bool:
        if phase == "last evaluation":
            return mark["what"] == "evaluate" and mark["round"] == ROUNDS
        return mark["what"] == phase and mark["round"] < ROUNDS

    def _settle(self) -> None:
        """Wait until the federation is complete, so that later effects come from the next kill."""
        found, deadline = daemon.find(self._user.home), time.monotonic() + 30
        cloud = Cloud(Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True), None)
        try:
            while time.monotonic() < deadline:
                with suppress(OneflowerError):
                    status = Federation.find(cloud, "camp").status()
                    if len(status.vms) == NODES + 1 and all(vm.ready for vm in status.vms):
                        return
                time.sleep(0.2)  # looking costs time that restarting processes also need
        finally:
            cloud.close()

    def _victims(self, plan: Plan, mark: dict) -> list[int]:
        if plan.kind == "daemon":
            found = daemon.find(self._user.home)
            return [found.pid] if found else []
        if plan.kind == "ClientApp":
            return [mark["pid"]]
        node = self._nodes[plan.node]
        words = {
            "SuperLink": (self._link, _WITH_FLOWER), "its agent": (self._link, _WITH_AGENT),
            "its init": (self._link, _WITH_INIT), "SuperNode": (node, _WITH_FLOWER),
            "a node's agent": (node, _WITH_AGENT), "a node's init": (node, _WITH_INIT),
        }  # fmt: skip
        names = {"its SuperExec": (self._link, "flower-superexe"), "ServerApp": (self._link, "flwr-serverapp"),
                 "a node's SuperExec": (node, "flower-superexe")}  # fmt: skip
        machine, word = words.get(plan.kind) or names[plan.kind]
        found = []
        for process in self._user.processes(machine):
            with suppress(psutil.Error):
                self._seen[process.pid] = process.create_time()
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if plan.kind in names:
                    if process.name() == word:
                        found.append(process.pid)
                elif self._is_program(process.cmdline(), word) and process.name() not in (
                    "flower-superexe", "flwr-serverapp", "flwr-clientapp",
                ):  # fmt: skip
                    found.append(process.pid)
        return found

    @staticmethod
    def _is_program(command: list[str], word: str) -> bool:
        if word == _WITH_INIT:
            return any(part.endswith("init.py") for part in command)
        return word in command and not any(part.endswith("init.py") for part in command)

    def _orphans(self) -> list[str]:
        """Return the processes, of all that were ever seen in a machine, that are left after `down`."""
        left = {process.pid for process in self._user.processes()}
        for pid, created in self._seen.items():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    left.add(pid)
        return [str(pid) for pid in sorted(left)]
