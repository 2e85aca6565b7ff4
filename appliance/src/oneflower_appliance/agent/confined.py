"""How the tasks of a SuperNode are confined, for their processes: the limits of the policy, and what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.agent.data_folder import data_folder
from oneflower_appliance.formats import split_node_config
from oneflower_appliance.orders import (
    DATA_PATH,
    EXECUTION_VARIABLE,
    PACKAGES_VARIABLE,
    RUNS_VARIABLE,
    TASK_VARIABLE,
    Confinement,
)
from oneflower_appliance.parameters import SUPERNODE_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.task_limits import TaskLimits

_PARTITION = "{partition}"
ENDED = "ended-tasks"  # the folder of the machine's home in which it is left why a task was ended


def confinement(machine: Machine, limits: TaskLimits, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable of the environment that has it."""
    given = machine.settings.text("FL_DATA_PATH")
    config = machine.settings.text("FL_NODE_CONFIG")
    # The partition is not known yet: a task may read the data of all partitions on this machine.
    own = given.partition(_PARTITION)[0].rpartition("/")[0] if _PARTITION in given else given
    data = data_folder("FL_DATA_PATH", own, machine.home)
    named = split_node_config(config).get(DATA_PATH, "") if config else ""
    readable = (str(data or ""), named, str(machine.home / "bin"), environment.get(PACKAGES_VARIABLE, ""))
    writable = [environment[name] for name in ("FLWR_HOME", RUNS_VARIABLE)]
    for folder in (*writable, ENDED):
        (machine.home / folder).mkdir(parents=True, exist_ok=True)
    wanted = Confinement(
        address=(machine.loopback, SUPERNODE_PORT),
        readable=tuple(filter(None, (*readable, *limits.read_only))),
        writable=tuple(writable),
        seconds=limits.seconds,
        memory=limits.memory,
        egress=limits.egress,
        max_gpus=limits.gpus,
        ended=str(machine.home / ENDED) if environment[EXECUTION_VARIABLE] == "stock" else "",
    )
    return {TASK_VARIABLE: wanted.line()}
