"""The server's side of secure aggregation: one round, in which it learns the sum of the updates alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.runs import Fault
from oneflower_appliance.training.asked import Asked
from oneflower_appliance.training.secure import secrets
from oneflower_appliance.training.secure.encoding import Mean, decode, length
from oneflower_appliance.training.secure.masks import add_mask
from oneflower_appliance.training.secure.wire import (
    LEAST_NODES,
    MASKED,
    RECORD,
    VECTOR,
    Stage,
    commitment,
    threshold_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.app import Array, ArrayRecord
    from flwr.serverapp import Grid
    from numpy.typing import NDArray

log = logging.getLogger("flwr")


def _default(name: str) -> float:
    return float(PARAMETERS[name].default)


class TooFewError(Exception):
    """Too few nodes are left, or they do not agree. The text says which, as the reason why a round changes nothing."""


@dataclass(frozen=True)
class Choices:
    """What an operator chooses: see docs/privacy.md. `timeout` is for each exchange, in seconds."""

    threshold: float = _default("FL_SECURE_THRESHOLD")
    timeout: float = _default("FL_ROUND_TIMEOUT")


@dataclass(frozen=True)
class Total:
    """The nodes whose updates are in the sum, what it says, and the mean of each metric by its name."""

    nodes: Sequence[int]
    mean: Mean
    metrics: Mapping[str, float]


@dataclass
class _Keys:
    mask: bytes
    seal: bytes
    commitment: bytes = b""
    sealed: Mapping[int, bytes] = field(default_factory=dict)  # shares, by their holder


class SecureRound:
    """One round: `prepare`, then training with what `collect` says, then `total`. Two of them raise `TooFewError`."""

    def __init__(
        self, grid: Grid, messages: Sequence[Message], weighted_by: str, choices: Choices, clip: float = 0.0
    ) -> None:
        self._grid = grid
        self._like = messages[0].metadata
        self._sampled = [message.metadata.dst_node_id for message in messages]
        self._weighted_by = weighted_by
        self._clip = clip  # the L2 norm to which each node clips its update, 0 for none
        self._choices = choices
        self._session = os.urandom(16)
        self._threshold = threshold_of(choices.threshold, len(self._sampled))
        self._keys: dict[int, _Keys] = {}
        self._sharing: list[int] = []  # those whose keys the others have, in the order of the shares
        self._masking: list[int] = []  # those with whom the others share masks
        self.left: list[int] = self._sampled  # those that have answered so far
        self.faults: list[Fault] = []

    def prepare(self) -> list[int]:
        """Let the nodes exchange keys and shares of their secrets. Return those that may train."""
        self._enough(self._sampled, "are asked")
        content = {
            "count": len(self._sampled),
            "threshold": self._threshold,
            "weighted-by": self._weighted_by,
            "clip": self._clip,
        }
        for node, said in self._exchange(Stage.SETUP, dict.fromkeys(self._sampled, content)).items():
            self._keys[node] = _Keys(said["mask-key"], said["seal-key"])
        self.left = self._sharing = sorted(self._keys)
        self._enough(self._sharing, "sent keys (does the ClientApp use secure_aggregation_mod?)")
        content = {
            "nodes": list(map(str, self._sharing)),
            "mask-keys": [self._keys[node].mask for node in self._sharing],
            "seal-keys": [self._keys[node].seal for node in self._sharing],
        }
        for node, said in self._exchange(Stage.SHARE, dict.fromkeys(self._sharing, content)).items():
            self._keys[node].commitment = said["commitment"]
            self._keys[node].sealed = dict(zip(self._sharing, said["sealed"], strict=False))
            if self._keys[node].sealed.keys() == set(self._sharing):
                self._masking.append(node)
            else:
                self.faults.append(Fault(str(node), "train", "failed", "it did not send a share for each other node"))
        self._masking.sort()
        self.left = self._masking
        self._enough(self._masking, "shared keys")
        return self._masking

    @property
    def collect(self) -> ConfigRecord:
        """What goes to each node with the model, the same to all."""
        return ConfigRecord(self._said(Stage.COLLECT, {"nodes": list(map(str, self._masking))}))

    def total(self, replies: Sequence[Message], before: Mapping[str, NDArray[Any]]) -> Total:
        """Return the mean of the updates of the model `before` in these replies."""
        contents = {reply.metadata.src_node_id: reply.content for reply in replies}
        self.left = sorted(contents)
        layouts = {
            node: _layout(content)
            for node, content in sorted(contents.items())
            if node in self._masking and MASKED in content.array_records
        }
        usual = Counter(layouts.values()).most_common(1)[0][0] if layouts else ()
        alike = {node: contents[node].array_records[MASKED] for node, layout in layouts.items() if layout == usual}
        vector, active = _added(alike, length(len(usual), before))
        for node in contents.keys() - set(active):
            reason = "its masked update has another size or other metrics than those of other nodes"
            self.faults.append(Fault(str(node), "train", "left out", reason))
        self._enough(active, "sent an update")
        self._remove_masks(vector, active, self._ask_for_shares(active))
        mean = decode(vector, len(usual), before)
        if mean is None:
            raise TooFewError("no node has examples")
        return Total(active, mean, dict(zip(usual, mean.metrics, strict=True)))

    def _ask_for_shares(self, active: list[int]) -> dict[int, list[bytes]]:
        """Return, by the node that holds them, a share of each node that the others share masks with."""
        said = list(map(str, active))
        contents = {
            node: {"active": said, "sealed": [self._keys[other].sealed[node] for other in self._masking]}
            for node in active
        }
        replies = self._exchange(Stage.UNMASK, contents)
        found = {node: reply["shares"] for node, reply in replies.items()}
        shares = {node: given for node, given in found.items() if len(given) == len(self._masking)}
        if len(shares) < self._threshold:
            raise TooFewError(
                f"{len(shares)} of the {self._threshold} nodes that secure aggregation needs (FL_SECURE_THRESHOLD) "
                "sent shares to unmask the sum"
            )
        return shares

    def _remove_masks(self, vector: NDArray[np.uint64], active: list[int], shares: Mapping[int, list[bytes]]) -> None:
        holders = sorted(shares)[: self._threshold]
        for number, node in enumerate(self._masking):
            seed = secrets.combine({self._sharing.index(holder): shares[holder][number] for holder in holders})
            keys = self._keys[node]
            alive = node in active
            known = commitment(self._session, seed) if alive else secrets.public_key(seed)
            if known != (keys.commitment if alive else keys.mask):
                raise TooFewError(f"a share that a node gave of the secret of node {node} is wrong")
            if alive:
                add_mask(vector, seed, negative=True)
                continue
            for other in active:  # whose masks with the node that is gone are left in the sum
                mask = secrets.agreed_key(seed, self._keys[other].mask, b"mask" + self._session)
                add_mask(vector, mask, negative=other > node)

    def _exchange(self, stage: Stage, contents: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        """Send each node its content, and return the answers by node. Remember who gave none, and why."""
        made: dict[int, RecordDict] = {}  # the same content is the same object in all messages
        messages = []
        for node, content in contents.items():
            record = made.setdefault(id(content), RecordDict({RECORD: ConfigRecord(self._said(stage, content))}))
            messages.append(Message(record, node, self._like.message_type, group_id=self._like.group_id))
        replies = list(self._grid.send_and_receive(messages, timeout=self._choices.timeout))
        sent = [message.metadata for message in messages]
        asked = Asked("train", list(contents), sent, self._choices.timeout)
        good = asked.sort(replies)
        self.faults += asked.faults
        return {
            reply.metadata.src_node_id: dict(reply.content.config_records[RECORD])
            for reply in good
            if RECORD in reply.content.config_records and reply.metadata.src_node_id in contents
        }

    def _said(self, stage: Stage, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"stage": str(stage), "session": self._session, **content}

    def _enough(self, nodes: Sequence[int], verb: str) -> None:
        needed = max(LEAST_NODES if verb != "sent an update" else 0, self._threshold)
        if len(nodes) < needed:
            raise TooFewError(
                f"{len(nodes)} of the {needed} nodes that secure aggregation needs (FL_SECURE_THRESHOLD) {verb}"
            )


def fault_of(arrays: Sequence[tuple[str, Array]], size: int) -> str:
    """Return what is wrong with the arrays of a masked update of a model with so many values, or an empty text."""
    if [name for name, _ in arrays] != [VECTOR]:
        return "its update is not masked"
    [(_, array)] = arrays
    fits = array.dtype == "uint64" and len(array.shape) == 1 and array.shape[0] > size
    return "" if fits else "its masked update has another size than the model"


def _layout(content: RecordDict) -> tuple[str, ...]:
    """Return the names of a reply's metrics, as the node wrote them."""
    names = content.config_records[RECORD].get("metrics") if RECORD in content.config_records else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _added(masked: Mapping[int, ArrayRecord], size: int) -> tuple[NDArray[np.uint64], list[int]]:
    """Return the sum of masked vectors, and the nodes whose vectors these are: not those of another size."""
    total = np.zeros(size, np.uint64)
    nodes = []
    for node, arrays in masked.items():
        try:
            vector = arrays[VECTOR].numpy()  # what an array says of itself may be wrong
        except (KeyError, ValueError, TypeError):
            continue
        if (vector.dtype, vector.shape) == (total.dtype, total.shape):
            total += vector
            nodes.append(node)
    return total, nodes
