"""Warm execution (FL_EXECUTION=warm): rounds as fast as the work in them, on unmodified Flower.

Stock Flower starts a Python interpreter for each task and lets every process ask every few seconds whether there is
news. Here the SuperExec has Flower and the framework imported already and forks for each task (`superexec`, `tasks`),
and a question that has no answer yet is held until it has one (`longpoll` where it is answered, `waits` where it is
asked). What Flower offers for it is used: its executor interface, its interceptors, its ASGI applications. The places
where an internal has to be replaced are listed in `missing`, which a new release of Flower has to pass.
"""

from __future__ import annotations

import importlib
import operator
import sys

ROLES = ("superlink", "supernode")

_EVERYWHERE = (
    ("flwr.supercore.protobuf.client", "ProtobufClient"),
    ("flwr.supercore.superexec.run_superexec", "get_executor"),
    ("flwr.supercore.superexec.run_superexec", "start_parent_process_monitor"),
    ("flwr.supercore.superexec.run_superexec", "time"),
    ("flwr.supercore.cli.flower_superexec", "flower_superexec"),
    ("flwr.supercore.exit.exit_handler", "registered_exit_handlers"),
)
_PLACES = {
    "superlink": (
        ("flwr.superlink.cli.flower_superlink", "subprocess"),
        ("flwr.superlink.grid.http_grid", "time"),
        ("flwr.supercore.corestate.sql_corestate", "SqlCoreState._cleanup_expired_task_tokens"),
        ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
    ),
    "supernode": (
        ("flwr.supernode.start_client_internal", "subprocess"),
        ("flwr.supernode.start_client_internal", "time"),
        ("flwr.supernode.start_client_internal", "register_signal_handlers"),
        ("flwr.supernode.start_client_internal", "_pull_and_store_message"),
        ("flwr.supernode.start_client_internal", "_push_messages"),
        ("flwr.supernode.nodestate.in_memory_nodestate", "InMemoryNodeState._store_error_replies"),
        ("flwr.supernode.main", "create_app"),
        ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"),
    ),
}


def missing(role: str) -> str:
    """Return why the Flower installed here cannot run warm as a SuperLink or SuperNode, or nothing when it can."""
    if sys.platform != "linux":
        return "it needs Linux"
    for module, name in (*_EVERYWHERE, *_PLACES[role]):
        try:
            operator.attrgetter(name)(importlib.import_module(module))
        except (AttributeError, ImportError):
            return f"this release of Flower has no {module}.{name}"
    return ""
