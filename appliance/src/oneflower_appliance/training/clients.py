"""Helpers for ClientApps, used by the pre-built apps and open to any other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from flwr.clientapp.mod import LocalDpMod

from oneflower_appliance.orders import LAST_ROUND
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.app import Context, Message

_DELTA = 1e-5


def learning_rate(run_config: Mapping[str, Any], own: float) -> float:
    """Return FL_CLIENT_LR if it applies to the strategy, otherwise the app's `own` learning rate."""
    only = PARAMETERS["FL_CLIENT_LR"].only
    applies = only is not None and run_config.get("strategy") in only[1]
    return float(run_config["client-lr"]) if applies else own


def settings_of(message: Message) -> dict[str, Any]:
    """Return the settings that the server sent for this round."""
    return dict(message.content.config_records["config"])


def proximal_mu(message: Message) -> float:
    """Return the weight of FedProx's proximal term, 0 with every other strategy."""
    return float(settings_of(message).get("proximal-mu", 0.0))


def seed_of(message: Message, context: Context) -> int:
    """Return a seed for this node and round. If a round is trained again, its seed is the same."""
    server_round = int(settings_of(message).get("server-round", 0))
    partition = int(context.node_config.get("partition-id", 0))
    return int(context.run_config["seed"]) + 10_000 * server_round + partition


def is_last_round(message: Message) -> bool:
    """Whether a message is of the last round, whose number the app's server sends in its settings."""
    settings = settings_of(message)
    return LAST_ROUND in settings and settings.get("server-round") == settings[LAST_ROUND]


def fine_tune_epochs(message: Message, context: Context) -> int:
    """Return for how many epochs this node trains a model of its own now (FL_FINE_TUNE_EPOCHS), 0 for none."""
    return int(context.run_config["fine-tune-epochs"]) if is_last_round(message) else 0


def privacy_mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Clip this node's update and add noise to it before it leaves the node, if FL_PRIVACY=dp-local asks for it.

    A mod for `@app.train(mods=[privacy_mod])`. The noise of Flower's `LocalDpMod` is given by epsilon and delta; they
    are chosen here so that its standard deviation is FL_DP_NOISE times FL_DP_CLIP.
    """
    config = context.run_config
    if config.get("privacy") != "dp-local":
        return call_next(message, context)
    clip, noise = float(config["dp-clip"]), float(config["dp-noise"])
    epsilon = math.sqrt(2 * math.log(1.25 / _DELTA)) / noise
    return LocalDpMod(clip, clip, epsilon, _DELTA)(message, context, call_next)
