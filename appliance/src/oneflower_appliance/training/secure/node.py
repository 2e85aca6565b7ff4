"""The node's side of secure aggregation, as a mod of a ClientApp.

    from oneflower_appliance.training.secure.node import secure_aggregation_mod

    @app.train(mods=[secure_aggregation_mod])

What a node keeps between the exchanges of a round is in its context, which does not leave it. Each exchange is
answered once. So a server cannot ask for both of a node's secrets, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.runs import is_number
from oneflower_appliance.training.secure import secrets
from oneflower_appliance.training.secure.encoding import Update
from oneflower_appliance.training.secure.masks import add_mask
from oneflower_appliance.training.secure.wire import LEAST_NODES, MASKED, RECORD, VECTOR, Stage, commitment

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import Context

    State = dict[str, Any]

_BEFORE = {Stage.SHARE: Stage.SETUP, Stage.COLLECT: Stage.SHARE, Stage.UNMASK: Stage.COLLECT}


def secure_aggregation_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Answer the exchanges of secure aggregation, and mask the update that the ClientApp trains.

    Raises `OneflowerError` if a step is not safe: the node then sends nothing.
    """
    if RECORD not in message.content.config_records:
        wanted = context.run_config.get(PARAMETERS["FL_SECURE_AGGREGATION"].key)
        _require(wanted != "YES", "the server asks for an update that is not masked, in a run with secure aggregation")
        return call_next(message, context)
    asked: State = dict(message.content.config_records[RECORD])
    message.content = RecordDict({name: record for name, record in message.content.items() if name != RECORD})
    node, stage = str(message.metadata.dst_node_id), Stage(asked["stage"])
    state: State = {} if stage is Stage.SETUP else dict(context.state.config_records.get(RECORD, {}))
    if stage is not Stage.SETUP:
        expected = _BEFORE[stage]
        known = state.get("session") == asked["session"] and state.get("stage") == expected
        _require(known, f"it is asked to {stage} without {expected} before, or a second time")
    content = RecordDict()
    if stage is Stage.COLLECT:
        content = _collect(state, asked, node, message, lambda: call_next(message, context))
    else:
        answer = {Stage.SETUP: _setup, Stage.SHARE: _share, Stage.UNMASK: _unmask}[stage](state, asked, node)
        content[RECORD] = ConfigRecord(answer)
    state["stage"] = str(stage)
    kept = state if stage is not Stage.UNMASK else {"session": asked["session"], "stage": str(stage)}
    context.state.config_records[RECORD] = ConfigRecord(kept)
    return Message(content, reply_to=message)


def _setup(state: State, asked: State, _node: str) -> State:
    """Make the keys of this round."""
    nodes, threshold = int(asked["count"]), int(asked["threshold"])
    _require(nodes >= LEAST_NODES, f"{nodes} nodes are too few: it takes part with {LEAST_NODES} or more")
    _require(nodes / 2 < threshold <= nodes, f"the threshold {threshold} is not between half and all of {nodes} nodes")
    state |= asked | {"mask-seed": secrets.new_seed(), "seal-seed": secrets.new_seed()}
    return {"mask-key": secrets.public_key(state["mask-seed"]), "seal-key": secrets.public_key(state["seal-seed"])}


def _share(state: State, asked: State, node: str) -> State:
    """Share the two secrets with the other nodes, each share sealed for its holder."""
    nodes, keys = asked["nodes"], [*asked["mask-keys"], *asked["seal-keys"]]
    _require(LEAST_NODES <= len(nodes) <= state["count"], f"{len(nodes)} nodes are too few or too many")
    _require(len(nodes) >= state["threshold"], f"{len(nodes)} nodes are fewer than the threshold")
    distinct = len(set(nodes)) == len(nodes) and len(set(keys)) == len(keys) == 2 * len(nodes)
    _require(distinct, "nodes or keys occur twice")
    own = (secrets.public_key(state["mask-seed"]), secrets.public_key(state["seal-seed"]))
    listed = dict(zip(nodes, zip(asked["mask-keys"], asked["seal-keys"], strict=True), strict=True))
    _require(listed.get(node) == own, "its own keys are not among those that the server passes on")
    seed = secrets.new_seed()
    state |= {name: asked[name] for name in ("nodes", "mask-keys", "seal-keys")} | {"own-seed": seed}
    own_shares = secrets.split(seed, state["threshold"], len(nodes))
    mask_shares = secrets.split(state["mask-seed"], state["threshold"], len(nodes))
    sealed = []
    for other, first, second in zip(nodes, own_shares, mask_shares, strict=True):
        if other == node:
            state["kept"] = first + second
            sealed.append(b"")
        else:
            sealed.append(secrets.seal(_seal_key(state, other), first + second, _about(state, node, other)))
    return {"sealed": sealed, "commitment": commitment(state["session"], seed)}


def _collect(state: State, asked: State, node: str, message: Message, train: Callable[[], Message]) -> RecordDict:
    """Train, and mask the update with this node's own mask and those that it shares with the other nodes."""
    masking = asked["nodes"]
    _require(set(masking) <= set(state["nodes"]) and node in masking, "the server names nodes that shared no keys")
    _require(len(set(masking)) == len(masking) >= state["threshold"], f"{len(masking)} nodes are too few")
    _require(len(masking) >= LEAST_NODES, f"{len(masking)} nodes are too few")
    [got] = message.content.array_records.values()
    trained = train()
    if trained.has_error():
        raise OneflowerError(f"its ClientApp failed: {trained.error.reason}")
    [arrays] = trained.content.array_records.values()
    [metrics] = trained.content.metric_records.values()
    said: State = dict(metrics)
    examples = said.pop(state["weighted-by"], None)
    _require(is_number(examples) and examples == int(examples), f"its {state['weighted-by']} is not a whole number")
    if wrong := [name for name, value in said.items() if not is_number(value)]:
        raise OneflowerError(f"its metric {wrong[0]} is not a number, which secure aggregation cannot add up.")
    named = sorted(said.items())
    before = {name: array.numpy() for name, array in got.items()}
    after = {name: array.numpy() for name, array in arrays.items()}
    # With a clipping norm, each node may move the mean as much as any other: the noise is made for that.
    weight = min(1, int(examples)) if state["clip"] else int(examples)
    vector = Update(before, after, weight, named).encode(state["count"], state["clip"])
    add_mask(vector, state["own-seed"])
    for other in masking:
        if other != node:
            add_mask(vector, _mask_key(state, other), negative=int(node) < int(other))
    state["masking"] = masking
    return RecordDict(
        {
            RECORD: ConfigRecord({"metrics": [name for name, _ in named]}),
            MASKED: ArrayRecord({VECTOR: Array(vector)}),
        }
    )


def _unmask(state: State, asked: State, node: str) -> State:
    """Give, of each node, a share of what removes its masks: of its own mask, or of the shared ones if it is gone."""
    active, masking = set(asked["active"]), state["masking"]
    _require(active <= set(masking) and node in active, "the server names nodes that sent no update")
    _require(len(active) >= state["threshold"], f"{len(active)} nodes are fewer than the threshold")
    shares = []
    for other, sealed in zip(masking, asked["sealed"], strict=True):
        if other == node:
            opened = state["kept"]
        else:
            try:
                opened = secrets.unseal(_seal_key(state, other), sealed, _about(state, other, node))
            except ValueError as error:
                raise OneflowerError(f"the shares of node {other} cannot be opened: {error}.") from None
        half = len(opened) // 2
        shares.append(opened[:half] if other in active else opened[half:])
    return {"shares": shares}


def _seal_key(state: State, other: str) -> bytes:
    return _agreed(state, "seal", other)


def _mask_key(state: State, other: str) -> bytes:
    return _agreed(state, "mask", other)


def _agreed(state: State, purpose: str, other: str) -> bytes:
    key: bytes = state[f"{purpose}-keys"][state["nodes"].index(other)]
    seed: bytes = state[f"{purpose}-seed"]
    return secrets.agreed_key(seed, key, purpose.encode() + state["session"])


def _about(state: State, sender: str, receiver: str) -> bytes:
    session: bytes = state["session"]
    return session + f" from {sender} to {receiver}".encode()


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise OneflowerError(f"secure aggregation stopped at this node: {otherwise}.")
