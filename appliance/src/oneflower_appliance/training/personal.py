"""Layers of a model that stay at each node: FedBN keeps batch normalisation there, FedPer the last layer.

The ServerApp chooses them (`choose`), trains without them and tells nodes which they are. A node puts its own in before
it trains or tests (`Personal.complete`) and takes them out before it replies (`Personal.keep`), so they never leave it.
Li et al., 2021, https://arxiv.org/abs/2102.07623 (FedBN); Arivazhagan et al., 2019, https://arxiv.org/abs/1912.00818.
"""

from __future__ import annotations

import json
import logging
import math
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import PRIVATE
from oneflower_appliance.orders import RUNS_VARIABLE
from oneflower_appliance.parameters import PERSONALIZATION
from oneflower_appliance.run_folder import FILES, PERSONAL, Origin
from oneflower_appliance.training.npz import DAMAGE, save_arrays
from oneflower_appliance.training.results import save_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.app import Context
    from flwr.serverapp import Grid
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

log = logging.getLogger("flwr")

NONE, FEDBN, FEDPER = PERSONALIZATION
_STATE = "personal-layers"  # the name of the record in a node's context, and of its file
_MODEL = "personal-model.npz"
_NAMES, _RUN = "personal", "first-run"  # keys of the settings that nodes are sent


def choose(
    run_config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], norms: Sequence[str], model: str
) -> list[str]:
    """Return the names of the arrays that stay at the nodes; none without personalization.

    `norms` are those of batch normalisation in this model. Raises `OneflowerError` if there are none to keep, and if
    none would be left to train together.
    """
    kind, patterns = str(run_config["personalization"]), str(run_config["personal-layers"])
    if kind == NONE:
        return []
    if kind == FEDBN:
        found = list(norms)
        missing = f"FedBN keeps batch normalisation at the nodes, and the model {model} has none."
        hint = "Choose a model that has: cnn-bn, with PyTorch. Or keep other layers, with personalization=fedper."
    else:
        wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()] or [f"{_last_layer(arrays)}*"]
        found = [name for name in arrays if any(fnmatchcase(name, pattern) for pattern in wanted)]
        missing = f"No array of the model {model} is called {' or '.join(wanted)}."
        hint = f"Name some of these in FL_PERSONAL_LAYERS: {', '.join(arrays)}."
    if not found:
        raise OneflowerError(missing, hint, ExitCode.INVALID_INPUT)
    if len(found) == len(arrays):
        raise OneflowerError(
            f"Every array of the model {model} would stay at the nodes, and nothing would be trained together.",
            f"Name some, not all, of these in FL_PERSONAL_LAYERS: {', '.join(arrays)}.",
            ExitCode.INVALID_INPUT,
        )
    return found


def _last_layer(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return how the names of the arrays of the last layer begin; empty if names do not say which layer it is."""
    layer, dot, _ = next(reversed(list(arrays))).rpartition(".")
    return layer + dot


def announce(grid: Grid, kind: str, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Say which layers are personal, in the log and in a file of the run, and return the settings for the nodes."""
    if not names:
        return {}
    own, every = (sum(math.prod(arrays[name].shape) for name in part) for part in (names, arrays))
    log.info("Personal layers (%s), %d of %d parameters, stay at each node: %s.", kind, own, every, _listed(names))
    save_result(grid, PERSONAL, json.dumps({
        "kind": kind, "arrays": {name: list(arrays[name].shape) for name in names}, "parameters": own, "all": every,
    }, indent=1) + "\n")  # fmt: skip
    return {_NAMES: list(names), _RUN: _first_run(grid)}


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _first_run(grid: Grid) -> str:
    """Return the id of the run, or of the first one if it resumes others: nodes keep their layers under it."""
    run = str(grid.run.run_id)
    runs = os.environ.get(RUNS_VARIABLE)
    return Origin.of(Path(runs) / run).first if runs else run


class Personal:
    """What one node keeps of a model, given the `settings` of a message. Without personal layers it does nothing.

    In a federation of oneflower it is a file in the folder of the run, which outlives the SuperNode's process and a run
    that is resumed. Elsewhere it is in Flower's context, which lives as long as that process.
    """

    def __init__(self, context: Context, settings: Mapping[str, Any]) -> None:
        self._context = context
        self._names = [str(name) for name in settings.get(_NAMES, ())]
        run, runs = str(settings.get(_RUN, "")), os.environ.get(RUNS_VARIABLE)
        number = run if run.isascii() and run.isdecimal() else ""
        self._folder = Path(runs) / number / FILES if runs and number else None

    def complete(self, shared: Arrays, initial: Arrays) -> Arrays:
        """Return a whole model: the `shared` arrays, and the node's own, which are those of `initial` at first."""
        if not self._names:
            return shared
        own = self._load()
        if not own:
            log.info("The personal layers begin as in the initial model.")
        wrong = [name for name, array in own.items() if name not in initial or array.shape != initial[name].shape]
        if wrong:
            raise OneflowerError(
                f"What this node has kept does not fit the model: {', '.join(wrong)}.",
                f"Remove {self._folder}, and start the run again.",
            )
        mine = {name: own.get(name, initial[name]) for name in self._names}
        return {name: mine[name] if name in mine else shared[name] for name in initial}

    def keep(self, trained: Arrays) -> Arrays:
        """Keep the node's own arrays, and return the others, which may be sent. Raises `OneflowerError`."""
        if not self._names:
            return trained
        own = {name: trained[name] for name in self._names}
        if self._folder:
            save_arrays(self._folder / f"{_STATE}.npz", own, PRIVATE)
        else:
            self._context.state[_STATE] = ArrayRecord({name: Array(array) for name, array in own.items()})
        return {name: array for name, array in trained.items() if name not in own}

    def _load(self) -> Arrays:
        if self._folder is None:
            record = self._context.state.array_records.get(_STATE)
            return {name: array.numpy() for name, array in record.items()} if record else {}
        path = self._folder / f"{_STATE}.npz"
        try:
            with np.load(path, allow_pickle=False) as loaded:
                return dict(loaded)
        except FileNotFoundError:
            return {}
        except DAMAGE as error:
            raise OneflowerError(
                f"The personal layers of this node cannot be read: {path}: {error}.",
                "Remove that file: the layers then begin as in the initial model.",
            ) from error

    @property
    def any(self) -> bool:
        """Whether some layers are personal."""
        return bool(self._names)


def refuse(run_config: Mapping[str, Any]) -> None:
    """Raise `OneflowerError` if a run of an app without personal models asks for them."""
    for key, none in (("personalization", NONE), ("fine-tune-epochs", 0)):
        if (value := run_config.get(key, none)) != none:
            raise OneflowerError(
                f"This app has no personal models, and the run config has {key}={value}.",
                f"Leave out {key}, or train image-classification.",
                ExitCode.INVALID_INPUT,
            )


def keep_model(arrays: Arrays) -> None:
    """Save this node's own model where only the node's user reads it, and say where. It is not sent."""
    if not os.environ.get(RUNS_VARIABLE):
        return
    path = Path.cwd() / _MODEL
    save_arrays(path, arrays, PRIVATE)
    log.info("This node's own model is in %s. It stays here, with those of the node's last eight runs.", path)
