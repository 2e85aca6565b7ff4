"""What runs inside Flower's own processes: a SuperLink, a SuperNode, a ServerApp.

They are started through `main`, so that they end with the agent, a SuperLink gets its front door, and both run warm
where that is asked for and possible. With `linkstate`, `nodeloop` and `warm`, this is all that knows Flower's Python
entry points.

usage: python -m oneflower_appliance.flower.main {superlink,supernode} --parent PID     (orders: JSON, on stdin)
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization

from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.flower import warm
from oneflower_appliance.flower.commands import superlink_arguments, supernode_arguments
from oneflower_appliance.flower.workplace import clientapp_works_in, serverapp_works_in
from oneflower_appliance.orders import (
    EXECUTION_VARIABLE,
    LEVEL_VARIABLE,
    RUNS_VARIABLE,
    SuperLinkOrders,
    SuperNodeOrders,
    node_id_in,
)
from oneflower_appliance.process import die_with_parent, raise_file_limit

if TYPE_CHECKING:
    from oneflower_appliance.flower.warm.superexec import WarmSuperExec

log = logging.getLogger("flwr")

_MODULES = {
    "superlink": ("flwr.superlink.cli.flower_superlink", "flwr.superlink.main"),
    "supernode": ("flwr.supernode.cli.flower_supernode", "flwr.supernode.main"),
}


def main() -> None:
    """Get ready to be a SuperLink or a SuperNode, read orders from standard input (one line of JSON), and be it.

    Importing Flower takes longer than all the boot steps before it together, so it is done while they run.
    """
    parser = argparse.ArgumentParser(prog="python -m oneflower_appliance.flower.main", description=main.__doc__)
    parser.add_argument("role", choices=tuple(_MODULES))
    parser.add_argument("--parent", type=int, required=True, help="end when this process ends")
    options = parser.parse_args()
    die_with_parent(options.parent)
    raise_file_limit()
    command, _ = (importlib.import_module(name) for name in _MODULES[options.role])
    _set_log_level()
    superexec = _warm_superexec(options.role)
    line = sys.stdin.readline().strip()
    if not line:
        return
    if options.role == "superlink":
        _run_superlink(command, SuperLinkOrders.read(line), superexec)
    else:
        _run_supernode(command, SuperNodeOrders.read(line), superexec)


def serverapp() -> None:
    """Run Flower's `flwr-serverapp` with every strategy supervised, in a folder of the run's own."""
    from oneflower_appliance.training.supervisor import supervise  # noqa: PLC0415 - imports Flower

    sys.argv[0] = "flwr-serverapp"
    if folder := os.environ.get(RUNS_VARIABLE):
        supervise(Path(folder), Path(folder).parent / "checkpoints")
        serverapp_works_in(Path(folder))
    importlib.import_module("flwr.superlink.cli").flwr_serverapp()


def clientapp() -> None:
    """Run Flower's `flwr-clientapp`, in a folder of the run's own."""
    sys.argv[0] = "flwr-clientapp"
    if folder := os.environ.get(RUNS_VARIABLE):
        clientapp_works_in(Path(folder))
    importlib.import_module("flwr.supernode.cli.flwr_clientapp").flwr_clientapp()


def _warm_superexec(role: str) -> WarmSuperExec | None:
    """Return the SuperExec that is to serve this process, None where stock Flower's is."""
    if os.environ.get(EXECUTION_VARIABLE) != "warm":
        return None
    if reason := warm.missing(role):
        log.warning("FL_EXECUTION=warm cannot be had here, so tasks run as stock Flower runs them: %s.", reason)
        return None
    from oneflower_appliance.flower.warm.superexec import WarmSuperExec  # noqa: PLC0415 - not needed by stock Flower

    return WarmSuperExec(role)


def _set_log_level() -> None:
    logger = importlib.import_module("flwr.supercore.logger")
    logger.console_handler.setLevel(os.environ.get(LEVEL_VARIABLE, "INFO"))


def _run_superlink(command: Any, orders: SuperLinkOrders, superexec: WarmSuperExec | None) -> None:
    from oneflower_appliance.flower.serving import Server, fleet_entrance, listen, own_entrance  # noqa: PLC0415

    sys.argv = ["flower-superlink", *superlink_arguments(orders)]
    control, fleet = listen(orders.control), listen(orders.fleet)
    runs = orders.runs
    uvicorn: Any = importlib.import_module("uvicorn")

    def serve(app: Any, **settings: Any) -> None:
        from oneflower_appliance.flower.api import status_api  # noqa: PLC0415
        from oneflower_appliance.flower.door import FleetDoor, OwnDoor  # noqa: PLC0415
        from oneflower_appliance.flower.linkstate import (  # noqa: PLC0415
            LinkState,
            answer_for_the_dead,
            look_for_expired_tasks_once_a_second,
        )
        from oneflower_appliance.flower.membership import Membership  # noqa: PLC0415
        from oneflower_appliance.flower.warm.longpoll import ACQUIRE_TASK, REPLIES, LongPoll  # noqa: PLC0415
        from oneflower_appliance.flower.warm.shortcuts import Shortcuts  # noqa: PLC0415
        from oneflower_appliance.run_folder import Origin  # noqa: PLC0415

        polls = LongPoll(Shortcuts(app))

        def wake_serverapps() -> None:
            for path in REPLIES:
                polls.wake(path)

        answer_for_the_dead(wake_serverapps)
        link = LinkState(
            app.state.linkstate_factory, on_start=lambda: polls.wake(ACQUIRE_TASK), warm=superexec is not None
        )
        for run in link.going():
            # Its ServerApp ended with the Flower before. Stopped before any SuperNode can ask, for one that has just
            # taken a message when its run is stopped answers every later message too late (Flower 1.41).
            write_atomic(runs / str(run) / Origin.LOST, "Its SuperLink was started again.\n", SHARED)
            link.stop(run)

        def died(token: str, how: str) -> None:
            run = link.run_of_serverapp(token)
            if run is not None:  # said before the run ends, so that who follows it knows why it did
                write_atomic(runs / str(run) / Origin.LOST, f"Its ServerApp {how}.\n", SHARED)
            link.fail(token, f"Its ServerApp {how}." if run is not None else f"The process of a task {how}.")

        if superexec:
            look_for_expired_tasks_once_a_second()
            superexec.tasks.on_death = died
        flower, status = polls if superexec else app, status_api(link, runs)
        settings["access_log"] = os.environ.get(LEVEL_VARIABLE) == "DEBUG"
        config = uvicorn.Config(app, timeout_graceful_shutdown=1, **settings)
        entrances = [
            own_entrance(control, OwnDoor(flower, status)),
            fleet_entrance(fleet, FleetDoor(flower, status, Membership(app))),
        ]
        Server(config, entrances, on_exit=polls.close).run()

    # Flower offers no way to serve its application on a second socket, so the one call that serves it is replaced.
    uvicorn.run = serve
    if superexec:
        superexec.replace_in(command.__name__)
    command.flower_superlink()


def _run_supernode(command: Any, orders: SuperNodeOrders, superexec: WarmSuperExec | None) -> None:
    from oneflower_appliance.flower import nodeloop  # noqa: PLC0415
    from oneflower_appliance.flower.noderuns import forget_what_has_ended  # noqa: PLC0415

    sys.argv = ["flower-supernode", *supernode_arguments(orders)]
    _close_session(orders)
    logging.getLogger("flwr").addHandler(_NodeIdSayer())
    nodeloop.answer_in_turn()
    forget_what_has_ended()
    _guard_runtime_api(command)
    if superexec:
        nodeloop.run_warm(superexec)
    command.flower_supernode()


def _guard_runtime_api(command: Any) -> None:
    """Have a SuperNode serve its tasks through a door: who gets in there is given apps and models, and may answer."""
    from oneflower_appliance.flower.door import OwnDoor  # noqa: PLC0415
    from oneflower_appliance.flower.serving import Server, listen, own_entrance  # noqa: PLC0415

    original = command.uvicorn

    def server(config: Any) -> Server:
        return Server(config, [own_entrance(listen((config.host, config.port)), OwnDoor(config.app))])

    command.uvicorn = SimpleNamespace(Config=original.Config, Server=server)


class _NodeIdSayer(logging.Handler):
    """Says which node id a SuperNode was given at every log level: Flower itself says it in one INFO line only."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if node_id_in(text):
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def _close_session(orders: SuperNodeOrders) -> None:
    """Close the session of an earlier process of this node: while it is open, a node with a key cannot come back."""
    if not (orders.previous_id and orders.key and orders.ca):
        return
    fleet_client = importlib.import_module("flwr.supernode.fleet_http_client").FleetHttpClient
    signer = importlib.import_module("flwr.supernode.node_auth_http_interceptor").NodeAuthHttpInterceptor
    messages = importlib.import_module("flwr.proto.fleet_pb2")
    private = serialization.load_ssh_private_key(orders.key.read_bytes(), None)
    client = fleet_client.from_server_address(
        orders.superlink, False, str(orders.ca), interceptors=[signer(private, private.public_key())]
    )
    try:
        client.DeactivateNode(messages.DeactivateNodeRequest(node_id=int(orders.previous_id)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the session then ends by itself, within a minute
        sys.stderr.write(f"The earlier session of node {orders.previous_id} could not be closed: {error}\n")


if __name__ == "__main__":
    main()
