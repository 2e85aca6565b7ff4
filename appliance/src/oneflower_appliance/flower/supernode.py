"""The process of a SuperNode: Flower's command, with corrections and additions."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import uvicorn
from cryptography.hazmat.primitives import serialization

from oneflower_appliance.audit import FOLDER, AuditLog
from oneflower_appliance.corrections import ANSWER_IN_TURN, ENDED_RUNS_ARE_KEPT
from oneflower_appliance.flower import confinement, internals, places, warm
from oneflower_appliance.flower.commands import supernode_arguments
from oneflower_appliance.flower.connections import keep_connections
from oneflower_appliance.flower.door import OwnDoor
from oneflower_appliance.flower.draining import Draining
from oneflower_appliance.flower.ended_tasks import answer_for_ended_tasks
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.holding import Holding
from oneflower_appliance.flower.key_order import Hearing
from oneflower_appliance.flower.nodeloop import answer_in_turn
from oneflower_appliance.flower.nodereport import Reporter
from oneflower_appliance.flower.noderuns import forget_what_has_ended
from oneflower_appliance.flower.patience import be_patient
from oneflower_appliance.flower.private_replies import PrivateReplies
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.serving import Server, listen, own_entrance
from oneflower_appliance.flower.site_gate import keep_to
from oneflower_appliance.flower.site_record import SiteRecord
from oneflower_appliance.flower.superexec import StockSuperExec, start_in
from oneflower_appliance.flower.task_door import TaskDoor
from oneflower_appliance.orders import TASK_VARIABLE, Confinement, SuperNodeOrders
from oneflower_appliance.privacy_ledger import PrivacyLedger
from oneflower_appliance.proxy import Proxy
from oneflower_appliance.site_policy import SitePolicy

if TYPE_CHECKING:
    from oneflower_appliance.flower.warm.program import SuperExecProgram


def imports() -> None:
    """Import the part of Flower that this process needs."""
    internals.supernode_command()
    if warm.is_wanted() and not places.missing(Feature.WARM_SUPERNODE) and not places.missing(Feature.NODE_QUESTIONS):
        from oneflower_appliance.flower.warm import node  # noqa: F401, PLC0415 - not needed by stock Flower


def run(orders: str, superexec: SuperExecProgram | None) -> None:
    """Be a SuperNode. Raises `OneflowerError` if that would not be safe."""
    places.demand(Feature.NODE_DOOR, Feature.NODE_ID)
    node = SuperNodeOrders.read(orders)
    if node.policy:
        places.demand(Feature.SITE_POLICY)
        if said := os.environ.get(TASK_VARIABLE):
            confinement.check(said)
    proxy = Proxy.parse(node.proxy) if node.proxy else None
    if proxy:
        places.demand(Feature.PROXY)
    if proxy or places.have(Feature.CONNECTIONS):
        keep_connections(proxy)
    sys.argv = ["flower-supernode", *supernode_arguments(node)]
    if node.previous_id and node.key and node.ca and places.have(Feature.CLOSE_SESSION):
        _close_session(node.superlink, node.ca, node.key, node.previous_id)
    if node.offline_after and places.have(Feature.PATIENCE):
        be_patient(node.offline_after)
    draining, reporter = Draining(), Reporter(node.report)
    reporter.start()
    Hearing(reporter).start()
    if node.policy:
        policy = SitePolicy.parse(node.policy)
        holding = Holding(node.asks, policy.ask_seconds)
        holding.tell()
        if policy.privacy:
            PrivateReplies(policy.privacy, PrivacyLedger(node.ledger, policy.privacy.period)).start()
        keep_to(policy, holding, SiteRecord(AuditLog(node.report.with_name(FOLDER))))
    prepare(superexec, reporter, proxy)
    draining.start()
    if (said := os.environ.get(TASK_VARIABLE)) and (folder := Confinement.read(said).ended):
        answer_for_ended_tasks(Path(folder))
    internals.supernode_command().flower_supernode()


def prepare(superexec: SuperExecProgram | None, reporter: Reporter, proxy: Proxy | None = None) -> None:
    """Correct Flower's loop, put a door before its tasks, and make it run warm, as far as this Flower allows.

    `reporter` is told what the SuperLink says of this node.
    """
    if ANSWER_IN_TURN.applies and places.have(Feature.ANSWER_IN_TURN):
        answer_in_turn()
    if ENDED_RUNS_ARE_KEPT.applies and places.have(Feature.FORGET_ENDED_RUNS):
        forget_what_has_ended()
    guard_runtime_api()
    if superexec:
        from oneflower_appliance.flower.warm.node import WarmNode  # noqa: PLC0415 - not needed by stock Flower

        WarmNode(superexec, reporter, proxy).start()
    elif places.have(Feature.SUPERNODE_SUPEREXEC):
        start_in(internals.node_loop(), StockSuperExec)


def guard_runtime_api() -> None:
    """Make a SuperNode serve its tasks through a door: a client there gets apps and models, and may answer."""

    def server(config: uvicorn.Config) -> Server:
        app: Any = config.app
        return Server(config, [own_entrance(listen((config.host, config.port)), OwnDoor(TaskDoor(app)))])

    config = functools.partial(uvicorn.Config, loop="asyncio") if is_edge() else uvicorn.Config  # uvloop takes 2 MB
    internals.supernode_command().uvicorn = SimpleNamespace(Config=config, Server=server)


def _close_session(superlink: str, ca: Path, key: Path, node: str) -> None:
    """Close the session of an earlier process of this node: while it is open, a node with a key cannot come back."""
    private: Any = serialization.load_ssh_private_key(key.read_bytes(), None)
    signer = internals.fleet_signatures().NodeAuthHttpInterceptor(private, private.public_key())
    client = internals.fleet_client().from_server_address(superlink, False, str(ca), interceptors=[signer])
    try:
        client.DeactivateNode(internals.fleet_messages().DeactivateNodeRequest(node_id=int(node)))
    except Exception as error:  # noqa: BLE001 - any error: the session then ends by itself, within a minute
        sys.stderr.write(f"The earlier session of node {node} could not be closed: {error}\n")
