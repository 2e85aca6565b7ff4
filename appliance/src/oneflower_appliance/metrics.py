"""The metrics that a machine exports to Prometheus, declared once.

The agent measures them (`agent/metrics/`), and the operator's side writes alert rules and dashboards over them. Names
and units follow Prometheus' conventions. Every label has a few values that are known in advance: none has the name of a
user, an app, a run or a machine. Only the metrics of sites name these and their nodes, at most a hundred of each.
Prometheus adds which machine a value is from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from oneflower_appliance.roles import COORDINATOR, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH, DCGM_PATH = "/metrics", "/dcgm"  # of the exporter: our metrics, and those of NVIDIA's exporter
DCGM_PORT = 9400  # where NVIDIA's exporter listens, by its own default


class Kind(StrEnum):
    """Whether a value goes up and down, or only up."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True)
class Metric:
    """A metric, under the name that it has in a query. `roles` are those of the machines that export it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    roles: tuple[str, ...] = (COORDINATOR, NODES)

    def is_(self, value: float, *labels: str) -> Reading:
        """Return a value of it, with the values of its labels."""
        return Reading(self, float(value), labels)


@dataclass(frozen=True)
class Reading:
    """A value of a metric at one moment."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


if TYPE_CHECKING:
    Measure = Callable[[], Iterator[Reading]]

METRICS: dict[str, Metric] = {}


def _gauge(name: str, text: str, *labels: str, roles: tuple[str, ...] = (COORDINATOR, NODES)) -> Metric:
    return METRICS.setdefault(f"oneflower_{name}", Metric(f"oneflower_{name}", Kind.GAUGE, text, labels, roles))


def _counter(name: str, text: str, *labels: str, roles: tuple[str, ...] = (COORDINATOR, NODES)) -> Metric:
    return METRICS.setdefault(f"oneflower_{name}", Metric(f"oneflower_{name}", Kind.COUNTER, text, labels, roles))


_LINK, _NODE = (COORDINATOR,), (NODES,)

# Of every machine.
BUILD = _gauge("build_info", "Always 1. The labels say what runs here.", "role", "version", "flower_version")
READY = _gauge("ready", "1 if the machine publishes READY, 0 if not.")
FLOWER_UP = _gauge("flower_up", "1 if Flower's process runs, 0 if not.")
RESTARTS = _counter("flower_restarts_total", "How often Flower was started again because it ended or hung.")
TIME = _gauge("time_seconds", "The machine's clock, in seconds since 1970.")
TASKS = _gauge("tasks_running", "ServerApps or ClientApps that are running.")
RESIDENT = _gauge("resident_memory_bytes", "Memory of processes. What several share counts in each.", "process")
CPU = _counter("cpu_seconds_total", "Processor time of the agent, and of Flower with its tasks.", "process")
MEMORY_FREE = _gauge("memory_available_bytes", "Memory of the machine that programs can still get.")
MEMORY = _gauge("memory_size_bytes", "Memory of the machine.")
DISK_FREE = _gauge("disk_free_bytes", "Free space of the disks that are written to.", "disk")
DISK = _gauge("disk_size_bytes", "Size of the disks that are written to.", "disk")
RECEIVED = _counter("network_received_bytes_total", "Bytes that the machine received. Not in the local cloud.")
SENT = _counter("network_sent_bytes_total", "Bytes that the machine sent. Not in the local cloud.")
# Of a SuperLink.
NODES_NOW = _gauge("nodes", "SuperNodes that the SuperLink knows.", "state", roles=_LINK)
NODES_EXPECTED = _gauge("nodes_expected", "SuperNodes that the service has.", roles=_LINK)
NODES_REFUSED = _gauge("nodes_refused", "Machines of the service that may not join.", roles=_LINK)
RUNS = _gauge("runs", "Runs that the SuperLink keeps.", "state", roles=_LINK)
RUN_ACTIVE = _gauge("run_active", "1 while a run has not ended, 0 otherwise.", roles=_LINK)
ROUND = _gauge("run_round", "The last complete round of the newest run, 0 before the first.", roles=_LINK)
ROUNDS = _gauge("run_rounds", "Rounds that the newest run is to have.", roles=_LINK)
LOSS = _gauge("run_loss", "Loss of the newest run's model, evaluated after its last round.", roles=_LINK)
ACCURACY = _gauge("run_accuracy", "Accuracy of the newest run's model, evaluated after its last round.", roles=_LINK)
TRAIN_LOSS = _gauge("run_train_loss", "Loss on the nodes while they trained, in the last round.", roles=_LINK)
RUN_NODES = _gauge("run_nodes", "Nodes that trained in the newest run's last round.", roles=_LINK)
PROGRESS = _gauge(
    "run_progress_timestamp_seconds", "When the newest run began or completed its last round.", roles=_LINK
)
ROUNDS_DONE = _counter("rounds_total", "Rounds that were completed, of all runs.", roles=_LINK)
ROUND_SECONDS = _counter("round_seconds_total", "Seconds that completed rounds took, of all runs.", roles=_LINK)
PHASE_SECONDS = _counter(
    "phase_seconds_total",
    "Seconds until all nodes had answered, in the phases of completed rounds; other is the rest of the rounds.",
    "phase",
    roles=_LINK,
)
NODE_TASKS = _counter("node_tasks_total", "Times that a node did its part in a phase of a round.", "phase", roles=_LINK)
FAULTS = _counter("node_faults_total", "Times that a node did not do its part.", "phase", "kind", roles=_LINK)
SITE_ONLINE = _gauge(
    "site_node_online", "1 if a node of another site is online, 0 if not.", "site", "name", roles=_LINK
)
SITE_TASKS = _counter(
    "site_tasks_total", "Times that a node of a site did its part in a phase.", "site", "phase", roles=_LINK
)
SITE_FAULTS = _counter(
    "site_faults_total", "Times that a node of a site did not do its part.", "site", "phase", roles=_LINK
)
FLEET_RECEIVED = _counter("fleet_received_bytes_total", "Bytes of requests by SuperNodes.", roles=_LINK)
FLEET_SENT = _counter("fleet_sent_bytes_total", "Bytes of answers to SuperNodes.", roles=_LINK)
EXPIRY = _gauge("certificate_expiry_timestamp_seconds", "When a certificate expires.", "certificate", roles=_LINK)
# Of a SuperNode.
ONLINE = _gauge("node_online", "1 if the SuperLink heard from the node when it was last asked.", roles=_NODE)
GPU_USE = _gauge("gpu_utilization_ratio", "Share of the time in which the GPU worked, 0 to 1.", "gpu", roles=_NODE)
GPU_USED = _gauge("gpu_memory_used_bytes", "Memory of the GPU that is in use.", "gpu", roles=_NODE)
GPU_MEMORY = _gauge("gpu_memory_size_bytes", "Memory of the GPU.", "gpu", roles=_NODE)
GPU_HEAT = _gauge("gpu_temperature_celsius", "Temperature of the GPU.", "gpu", roles=_NODE)
