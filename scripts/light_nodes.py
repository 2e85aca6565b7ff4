"""Many SuperNodes in one process, as a SuperLink sees them: each has its own key and its own connections.

They speak to the SuperLink with the code of our SuperNodes, and hold their requests in the same way. Only the ClientApp
is left out: each adds a constant to each array, or evaluates, as the app of scripts/bench_models.py does.

usage: python light_nodes.py HOST:PORT CA NUMBER
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import push_object_contents_from_iterable
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_connection import http_request_response

from oneflower_appliance.agent.link import Probe
from oneflower_appliance.flower.connections import keep_connections
from oneflower_appliance.flower.warm.bundle_client import _fetching, _sending, send_in_bundles
from oneflower_appliance.flower.warm.downloads import download_directly
from oneflower_appliance.flower.warm.kept import Kept
from oneflower_appliance.flower.warm.pace import Pace
from oneflower_appliance.flower.warm.pulse import spare_heartbeats
from oneflower_appliance.flower.warm.waits import ask_to_wait
from oneflower_appliance.flower.warm.whole_client import _sending as _to_send
from oneflower_appliance.flower.warm.whole_client import send_whole_messages

_lock = threading.Lock()


def be_a_node(address: str, ca: str) -> None:
    """Answer messages until this process ends."""
    kept, pace = Kept(), Pace()
    fetch = _fetching(inflatable_utils.pull_objects, kept, pace=pace)
    hand = _sending(push_object_contents_from_iterable, pace)
    with http_request_response(address, False, ca) as (node, receive, send, _, _, pull_object, push_object, confirm):
        working = threading.Event()
        threading.Thread(target=_watch, args=(address, ca, node, working), daemon=True).start()
        while True:
            working.clear()
            if (found := receive()) is None:
                continue
            working.set()
            message, tree = found
            run = message.metadata.run_id
            try:
                names = [branch.object_id for branch in iterate_object_tree(tree)]
                objects = fetch(names, partial(pull_object, run))
                confirm(run, message.metadata.message_id)
                kept.confirm()
                reply = _answer(message, inflatable_utils.inflate_object_from_contents(tree.object_id, objects), node)
                _to_send.messages.append(reply)
                wanted, session = send(reply, get_object_tree(reply), 0.1)
                contents = get_all_nested_objects(reply)
                handed = ((name, contents[name].deflate()) for name in contents if name in wanted)
                hand(handed, partial(push_object, run, session))
            except RunNotRunningException:
                continue


def _watch(address: str, ca: str, node: int, working: threading.Event) -> None:
    """Ask whether the SuperLink hears from the node, when its agent does: while it is working."""
    probe = Probe(Path(ca))
    while True:
        if working.is_set():
            probe.lists_online(address, str(node))
        time.sleep(10)


def _answer(message: Any, content: Any, node: int) -> Any:
    arrays = content.content["arrays"].to_numpy_ndarrays()
    record: dict[str, Any]
    if message.metadata.message_type == "train":
        metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
        record = {"arrays": ArrayRecord([np.asarray(array + np.float32(0.5)) for array in arrays]), "metrics": metrics}
    else:
        value = float(sum(array.flat[0] for array in arrays))
        record = {"metrics": MetricRecord({"num-examples": 1, "value": value})}
    with _lock:  # Flower keeps the identity of a node once for each process
        TaskIdentity.node_id, TaskIdentity.run_id, TaskIdentity.task_id = node, message.metadata.run_id, 1
        reply = Message(RecordDict(record), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply


def main() -> None:
    """Start them all, and wait for the end."""
    address, ca, number = sys.argv[1:]
    ask_to_wait()
    spare_heartbeats()
    send_in_bundles()  # the clients; the functions are of each node
    send_whole_messages()
    keep_connections()
    download_directly()
    for _ in range(int(number)):
        threading.Thread(target=be_a_node, args=(address, ca), daemon=True).start()
    signal.pause()


if __name__ == "__main__":
    main()
