"""The strategy that a form asks for, made from Flower's own classes.

Two lines in any ServerApp:

    from oneflower_appliance.training.strategies import make_strategy
    strategy = make_strategy(context.run_config)

A value is taken from the run config (under the keys of docs/strategies.md), otherwise from the form with which the
federation was deployed, otherwise from the defaults. `settings.run_config_keys` has the rule for all variables.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flwr.serverapp import strategy as flower

from oneflower_appliance import features_off
from oneflower_appliance.corrections import ADAPTIVE_CLIPPING
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, of_level
from oneflower_appliance.settings import ignored, resolve, run_config_keys
from oneflower_appliance.training.accounting import EvenClipping, EvenNoise
from oneflower_appliance.training.secure.aggregation import Choices
from oneflower_appliance.training.secure.strategy import SecAgg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.serverapp.strategy import Strategy

    from oneflower_appliance.values import Settings

log = logging.getLogger("flwr")

_CORRECTION = "The correction of the adaptive clipping norm"

_COMMON = {
    "min_train_nodes": "FL_MIN_FIT_CLIENTS",
    "min_evaluate_nodes": "FL_MIN_EVALUATE_CLIENTS",
    "min_available_nodes": "FL_MIN_AVAILABLE_CLIENTS",
}
_ADAPTIVE = {"eta": "FL_SERVER_LR", "eta_l": "FL_CLIENT_LR"}
_OWN: dict[str, dict[str, str]] = {
    "FedAvg": {},
    "FedProx": {"proximal_mu": "FL_PROXIMAL_MU"},
    "FedAdam": _ADAPTIVE,
    "FedYogi": _ADAPTIVE,
    "FedAdagrad": _ADAPTIVE,
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": "FL_TRIM_BETA"},
    "Krum": {"num_malicious_nodes": "FL_NUM_MALICIOUS"},
    "MultiKrum": {"num_malicious_nodes": "FL_NUM_MALICIOUS"},
    "Bulyan": {"num_malicious_nodes": "FL_NUM_MALICIOUS"},
    "QFedAvg": {"client_learning_rate": "FL_CLIENT_LR", "q": "FL_FAIRNESS_Q"},
    "FedXgbBagging": {},
    "FedXgbCyclic": {},
}
_ONE_NODE_A_ROUND = ("FedXgbCyclic",)
_NOT_OF_STRATEGIES = ("FL_NUM_ROUNDS", "FL_MODEL")
_MADE: WeakKeyDictionary[Strategy, Mapping[str, str]] = WeakKeyDictionary()
_JUST_ENOUGH = 1e-9


def read_form(run_config: Mapping[str, Any]) -> Settings:
    """Return the SuperLink's variables as they apply to a run. Raises `OneflowerError` naming all that are wrong."""
    values: dict[str, str] = json.loads(os.environ.get(FORM_VARIABLE, "{}"))
    names = (parameter.name for parameter in of_level(Level.SUPERLINK))
    values |= {name: str(run_config[key]) for name, key in run_config_keys(names, run_config).items()}
    return resolve(values, (Level.SUPERLINK,))


def variables_of(strategy: Strategy) -> Mapping[str, str]:
    """Return the variables from which `make_strategy` made a strategy, with their values; empty for others."""
    try:
        return _MADE.get(strategy, {})
    except TypeError:  # an app's own class may have objects that cannot be keys
        return {}


def make_strategy(run_config: Mapping[str, Any], **more: Any) -> Strategy:
    """Return the strategy, with differential privacy and secure aggregation around it if the form asks for them.

    `more` goes to the strategy's class: metric functions, for example. Raises `OneflowerError`.
    """
    form = read_form(run_config)
    name = form.text("FL_STRATEGY")
    for line in ignored(form):
        log.info("%s", line)
    variables = _COMMON | _OWN[name]
    if name in _ONE_NODE_A_ROUND:
        variables = {"min_available_nodes": _COMMON["min_available_nodes"]}
    arguments = {key: PARAMETERS[variable].parse(form[variable]) for key, variable in variables.items()}
    if name == "MultiKrum":
        arguments["num_nodes_to_select"] = form.integer("FL_MIN_AVAILABLE_CLIENTS") - form.integer("FL_NUM_MALICIOUS")
    if form.text("FL_PRIVACY") == "dp-central":
        # The noise is made for a number of nodes, so in each round exactly that many are sampled.
        arguments["fraction_train"] = _JUST_ENOUGH
    made = _secured(_with_privacy(getattr(flower, name)(**arguments | more), form), form)
    _MADE[made] = {variable: raw for variable, raw in form.items() if variable not in _NOT_OF_STRATEGIES}
    return made


class CorrectedClipping(flower.DifferentialPrivacyServerSideAdaptiveClipping):
    """Flower's adaptive clipping with the direction corrected (see `corrections.ADAPTIVE_CLIPPING`)."""

    def _geometric_update(self, clipped_fraction: float) -> None:
        super()._geometric_update(1 - clipped_fraction)


def adaptive_clipping() -> type[flower.DifferentialPrivacyServerSideAdaptiveClipping]:
    """Return the class for adaptive clipping: the corrected one, if the installed Flower has the bug."""
    stock = flower.DifferentialPrivacyServerSideAdaptiveClipping
    if not ADAPTIVE_CLIPPING.applies:
        return stock
    if not hasattr(stock, "_geometric_update"):
        line = f"{_CORRECTION} is off, because this release of Flower has no {stock.__name__}._geometric_update."
        if features_off.report("ADAPTIVE_CLIPPING", line):
            log.warning("%s", line)
        return stock
    return CorrectedClipping


def _is_secure(form: Settings) -> bool:
    return form.text("FL_SECURE_AGGREGATION") == "YES"


def _secured(strategy: Strategy, form: Settings) -> Strategy:
    if not _is_secure(form):
        return strategy
    choices = Choices(
        threshold=form.real("FL_SECURE_THRESHOLD"),
        timeout=form.integer("FL_ROUND_TIMEOUT"),
    )
    return SecAgg(strategy, choices)


def _with_privacy(strategy: Strategy, form: Settings) -> Strategy:
    if form.text("FL_PRIVACY") != "dp-central":
        return strategy
    noise, clip, nodes = form.real("FL_DP_NOISE"), form.real("FL_DP_CLIP"), form.integer("FL_MIN_FIT_CLIENTS")
    if _is_secure(form):
        return EvenNoise(strategy, noise, clip, nodes)  # the nodes clip
    if form.text("FL_DP_CLIPPING") == "fixed":
        return EvenClipping(strategy, noise, clip, nodes)
    # The number of updates that were clipped gets noise, too. Flower's default for it, a twentieth of the nodes, is too
    # little for few nodes, and Flower refuses it.
    return adaptive_clipping()(
        strategy,
        noise_multiplier=noise,
        num_sampled_clients=nodes,
        initial_clipping_norm=clip,
        clipped_count_stddev=max(nodes / 20, noise),
    )
