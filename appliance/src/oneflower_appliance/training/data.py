"""Finds a node's data, and splits a data set that all nodes have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.orders import DATA_PATH, SITE_INDEX
from oneflower_appliance.volumes import entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.app import Context, Message
    from numpy.typing import NDArray

SHARES = "shares"  # the key in the config of a message: the ids of the nodes, in the order of their shares
_SITES = 8


class DataError(OneflowerError):
    """A node's data cannot be trained on."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, ExitCode.INVALID_INPUT)


def data_folder(context: Context) -> Path | None:
    """Return the folder with this node's own files, or None if it has none. Raises `DataError`."""
    named = context.node_config.get(DATA_PATH)
    if not named:
        return None
    folder = Path(str(named))
    if not folder.is_dir():
        raise DataError(f"The data folder {folder} does not exist on this node.", "Mount it, or correct FL_DATA_PATH.")
    if not entries(folder):
        raise DataError(f"The data folder {folder} is empty on this node.", "Put files there, or unset FL_DATA_PATH.")
    return folder


def partition_of(context: Context, message: Message | None = None) -> tuple[int, int]:
    """Return this node's share of a common data set: (partition-id, num-partitions). Raises `DataError`.

    With nodes of other sites, the server divides the data among those that answered its survey, and says so in each
    `message`. A node that it did not ask, because it came later, does not know how many others there are: its site
    takes an eighth, so that some nodes may train on the same.
    """
    if message is not None and (nodes := _divided(message)):
        node = str(context.node_id)
        if node in nodes:
            return nodes.index(node), len(nodes)
    config: Mapping[str, Any] = context.node_config
    if "partition-id" not in config or "num-partitions" not in config:
        raise DataError(
            "This node has no partition.",
            "Set FL_NODE_CONFIG='partition-id=0 num-partitions=2' on it, or FL_DATA_PATH.",
        )
    number, count = int(config["partition-id"]), int(config["num-partitions"])
    if site := int(config.get(SITE_INDEX, 0)):
        return (site - 1) % _SITES * count + number, _SITES * count
    return number, count


def divide(nodes: Iterable[int], names: Mapping[int, str]) -> dict[str, list[str]]:
    """Return what a server says to nodes so that each has its own share of a common data set; empty without sites.

    Nodes that have no name are the federation's own, and know their partitions if there are no others.
    """
    return (
        {SHARES: [str(node) for node in sorted(nodes, key=lambda node: (names.get(node, ""), node))]} if names else {}
    )


def _divided(message: Message) -> list[str]:
    found = message.content.config_records["config"].get(SHARES)
    return list(map(str, found)) if isinstance(found, list) else []


def share(labels: NDArray[np.int64], number: int, count: int, alpha: float, seed: int) -> NDArray[np.int64]:
    """Return the indices of share `number` of `count`: disjoint, together everything, never empty.

    With `alpha` 0 each share has the same mix of labels; otherwise each label is split by a Dirichlet draw, so that
    0.1 leaves most nodes with a few labels only. Raises `DataError`.
    """
    if not 0 <= number < count <= len(labels):
        raise DataError(
            f"partition-id {number} of {count} is not a share of {len(labels)} examples.", "Deploy fewer SuperNodes."
        )
    rng = np.random.default_rng(seed)
    shares: list[list[int]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        weights = rng.dirichlet([alpha] * count) if alpha > 0 else np.full(count, 1 / count)
        cuts = (np.cumsum(weights)[:-1] * len(indices)).round().astype(int)
        # The first share of each label moves on by one, so that the remainders do not all go to one node.
        for position, part in enumerate(np.split(indices, cuts)):
            shares[(position + int(label)) % count if alpha <= 0 else position].extend(part.tolist())
    for given in shares:
        if not given:
            given.append(max(shares, key=len).pop())
    return np.sort(np.asarray(shares[number], dtype=np.int64))


def hold_out(count: int, part: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices to train on and indices to test on: `part` of `count`, at least one if there are two."""
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(1, round(count * part)), count - 1)
    return np.sort(order[held:]), np.sort(order[:held])
