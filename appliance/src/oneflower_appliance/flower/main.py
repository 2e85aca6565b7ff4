"""The processes of a SuperLink and of a SuperNode: Flower, started so that it ends with the agent.

usage: python -m oneflower_appliance.flower.main {superlink,supernode} --parent PID     (orders: JSON, on stdin)
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals, places, warm
from oneflower_appliance.flower.ca_following import follow_ca
from oneflower_appliance.flower.ending import run_flower
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.json_output import write_json
from oneflower_appliance.flower.lean import stand_ins
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.spare import import_databases, put_off_databases
from oneflower_appliance.orders import LEVEL_VARIABLE
from oneflower_appliance.process import die_with_parent, raise_file_limit, use_huge_pages
from oneflower_appliance.roles import COORDINATOR, NODES, ROLES

if TYPE_CHECKING:
    from oneflower_appliance.flower.warm.program import SuperExecProgram

log = logging.getLogger("flwr")

_WHOLE = "ONEFLOWER_WHOLE_IMPORTS"  # the variable that says that nothing is put off
_WARM = {COORDINATOR: Feature.WARM_SUPERLINK, NODES: Feature.WARM_SUPERNODE}


def main() -> None:
    """Get ready to be a SuperLink or a SuperNode, read orders from standard input, and be it.

    Importing Flower takes longer than all the boot steps before it together, so it is done while they run.
    """
    parser = argparse.ArgumentParser(prog="python -m oneflower_appliance.flower.main", description=main.__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--parent", type=int, required=True, help="end when this process ends")
    options = parser.parse_args()
    die_with_parent(options.parent)
    raise_file_limit()
    write_json(f"flower-{options.role}")
    try:
        role = _import(options.role)
        set_log_level()
        follow_ca()
        superexec = warm_superexec(options.role)
        if options.role == COORDINATOR:
            import_databases()
        use_huge_pages(wanted=not is_edge())  # for models; the agent, which started this process, does without
        if line := sys.stdin.readline().strip():
            run_flower(lambda: role.run(line, superexec))
    except OneflowerError as error:
        sys.stderr.write(f"{error.sentence}\n")
        sys.exit(error.code)


def _import(name: str) -> Any:
    """Import what is needed for a role, and return its module. On a small machine, do without what it does not use."""
    put_off_databases()
    if name == NODES and is_edge() and not os.environ.get(_WHOLE):
        try:
            with stand_ins():
                role = _imported(name)
                places.demand(Feature.SUPEREXEC_ON_DEMAND)  # another SuperExec would be a fork of this process
                return role
        except Exception as error:  # noqa: BLE001 - any error: this release of Flower needs what was put off
            log.warning("This node takes more memory, because its Flower cannot be imported in parts: %s", error)
            os.execve(sys.executable, sys.orig_argv, {**os.environ, _WHOLE: "1"})  # noqa: S606 - no shell is wanted
    return _imported(name)


def _imported(name: str) -> Any:
    role = importlib.import_module(f"{__package__}.{name}")  # only one: each imports a lot
    role.imports()
    return role


def warm_superexec(role: str) -> SuperExecProgram | None:
    """Return the SuperExec for this process, or None if stock Flower's is used."""
    if not warm.is_wanted() or not places.have(_WARM[role]):
        return None
    if role == NODES and is_edge() and places.have(Feature.SUPEREXEC_ON_DEMAND):
        from oneflower_appliance.flower.warm.ondemand import OnDemandSuperExec  # noqa: PLC0415 - not needed elsewhere

        return OnDemandSuperExec(role)
    from oneflower_appliance.flower.warm.superexec import WarmSuperExec  # noqa: PLC0415 - not needed by stock Flower

    return WarmSuperExec(role)


def set_log_level() -> None:
    """Set Flower's log level to FL_LOG_LEVEL."""
    if places.have(Feature.LOG_LEVEL):
        internals.flower_log().console_handler.setLevel(os.environ.get(LEVEL_VARIABLE, "INFO"))


if __name__ == "__main__":
    main()
