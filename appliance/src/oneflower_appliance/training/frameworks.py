"""Which machine-learning framework a run trains with, for apps that have a module for each."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.setting_rules import strategy_problem
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def framework_name(run_config: Mapping[str, Any], known: Sequence[str]) -> str:
    """Return the framework that the run config names or its base, otherwise the first of `known` that is installed.

    Raises `OneflowerError` when the app does not have the one that is named, when none is installed, and when the run's
    strategy is not for it.
    """
    wanted = str(run_config["framework"]) or next((name for name in known if find_spec(FRAMEWORKS[name].package)), "")
    check_strategy({**run_config, "framework": wanted})
    for name in (wanted, FRAMEWORKS[wanted].base if wanted in FRAMEWORKS else ""):
        if name in known:
            return name
    raise OneflowerError(
        f"The run config asks for the framework {wanted!r}." if wanted else "No framework is installed here.",
        f"This app trains with {', '.join(known)}.",
        ExitCode.INVALID_INPUT,
    )


def check_strategy(run_config: Mapping[str, Any]) -> None:
    """Raise `OneflowerError` if the framework that the run config names does not train with the run's strategy."""
    framework, strategy = str(run_config["framework"]), run_config.get("strategy")
    if framework in FRAMEWORKS and strategy and (problem := strategy_problem(str(strategy), framework)):
        raise OneflowerError(f"The strategy {problem}", "Choose another strategy.", ExitCode.INVALID_INPUT)
