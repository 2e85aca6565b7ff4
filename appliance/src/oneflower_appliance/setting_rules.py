"""The rules between the values of several variables: each says what is wrong with them, or nothing.

`settings.resolve` applies those whose variables are all there and valid by themselves.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from oneflower_appliance import schedule_rules
from oneflower_appliance.formats import split_address
from oneflower_appliance.gpu_parameters import FULL
from oneflower_appliance.packages import is_folder, read_packages
from oneflower_appliance.parameters import MEAN_STRATEGIES, STRATEGIES
from oneflower_appliance.run_privacy import not_counted
from oneflower_appliance.site_choice import SiteChoice, read_sites
from oneflower_appliance.use_cases import (
    BATCH_NORM,
    FRAMEWORKS,
    NO_USE_CASE,
    TREE_STRATEGIES,
    USE_CASES,
    frameworks_of,
    impersonal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.values import Settings

_SECURE_NODES = 3  # of two updates, the sum and one of them show the other


def _min_available(settings: Settings) -> str:
    available = settings.integer("FL_MIN_AVAILABLE_CLIENTS")
    least = max(settings.integer("FL_MIN_FIT_CLIENTS"), settings.integer("FL_MIN_EVALUATE_CLIENTS"))
    if available >= least:
        return ""
    return f"is {available}; expected at least {least}, the larger of FL_MIN_FIT_CLIENTS and FL_MIN_EVALUATE_CLIENTS."


def _malicious(settings: Settings) -> str:
    strategy, bad = settings.text("FL_STRATEGY"), settings.integer("FL_NUM_MALICIOUS")
    nodes = settings.integer("FL_MIN_AVAILABLE_CLIENTS")
    needed = {"Krum": 2 * bad + 3, "MultiKrum": 2 * bad + 3, "Bulyan": 4 * bad + 3}.get(strategy, 0)
    if nodes >= needed:
        return ""
    return f"is {bad}; {strategy} then needs FL_MIN_AVAILABLE_CLIENTS of at least {needed}, and it is {nodes}."


def _private(settings: Settings) -> str:
    if settings.text("FL_PRIVACY") != "dp-local" or settings.text("FL_DP_CLIPPING") == "fixed":
        return ""
    return "is 'adaptive'; with FL_PRIVACY=dp-local no node reports the norm of its update, so use 'fixed'."


def _secure(settings: Settings) -> str:
    if settings.text("FL_SECURE_AGGREGATION") != "YES":
        return ""
    strategy, least = settings.text("FL_STRATEGY"), settings.integer("FL_MIN_FIT_CLIENTS")
    if strategy not in MEAN_STRATEGIES:
        return f"is 'YES'; {strategy} needs the update of each node, so use one of {', '.join(MEAN_STRATEGIES)}."
    if settings.text("FL_PRIVACY") == "dp-central" and settings.text("FL_DP_CLIPPING") != "fixed":
        return "is 'YES'; with FL_DP_CLIPPING=adaptive the SuperLink clips each node's update, so use 'fixed'."
    if least < _SECURE_NODES:
        return f"is 'YES', which needs FL_MIN_FIT_CLIENTS of at least {_SECURE_NODES}, and it is {least}."
    return ""


def _budget(settings: Settings) -> str:
    given = (settings.text(name) for name in ("FL_PRIVACY", "FL_DP_CLIPPING", "FL_STRATEGY"))
    why = not_counted(*given) if settings.real("FL_DP_MAX_EPSILON") else ""
    return f"cannot be kept. {why}" if why else ""


def _own_certificate(settings: Settings) -> str:
    given = [bool(settings[f"FL_SSL_{part}"]) for part in ("CA_CERTFILE", "CERTFILE", "KEYFILE")]
    if all(given) or not any(given):
        return ""
    return "FL_SSL_CA_CERTFILE, FL_SSL_CERTFILE and FL_SSL_KEYFILE go together: give all three or none."


def _authentication(settings: Settings) -> str:
    if settings.flag("FL_TLS_ENABLED") or not settings.flag("FL_SUPERNODE_AUTH"):
        return ""
    return "is YES, which needs TLS; if FL_TLS_ENABLED is NO, set it to NO as well."


def _proxy(settings: Settings) -> str:
    if settings.flag("FL_TLS_ENABLED") or not settings.text("FL_PROXY"):
        return ""
    return "is set, which needs TLS: the proxy would read and could change everything. Set FL_TLS_ENABLED=YES."


def _invited(settings: Settings) -> str:
    if not settings.text("FL_INVITATION") or (settings.flag("FL_TLS_ENABLED") and settings.flag("FL_SUPERNODE_AUTH")):
        return ""
    return "is set, which needs FL_TLS_ENABLED=YES and FL_SUPERNODE_AUTH=YES."


def _sites(settings: Settings) -> str:
    named, least = read_sites(settings.text("FL_SITES")), settings.integer("FL_MIN_SITES")
    return SiteChoice(named, least).problem(named) if named else ""


def _model(settings: Settings) -> str:
    use_case, model = settings.text("FL_USE_CASE"), settings.text("FL_MODEL")
    known = USE_CASES[use_case].models if use_case != NO_USE_CASE else None
    if not model or known is None or model in known:
        return ""
    return f"is {model!r}; {use_case} has {', '.join(known) or 'one model only: leave it empty'}."


def _framework(settings: Settings) -> str:
    use_case, framework = settings.text("FL_USE_CASE"), settings.text("ML_FRAMEWORK")
    fitting = frameworks_of(use_case)
    if framework in fitting:
        return ""
    return f"is {framework!r}; {use_case} needs one of {', '.join(fitting)}."


def strategy_problem(strategy: str, framework: str) -> str:
    """Return why a pre-built app cannot train with this strategy on this framework, or an empty text."""
    of_others = {name for found in FRAMEWORKS.values() for name in found.strategies}
    fitting = FRAMEWORKS[framework].strategies or tuple(name for name in STRATEGIES if name not in of_others)
    if strategy in fitting:
        return ""
    return f"is {strategy!r}; {framework} needs one of {', '.join(fitting)}."


def _fits_framework(settings: Settings, name: str, find_problem: Callable[[str, str], str]) -> str:
    """Apply a rule between a variable and the framework, which holds for pre-built apps only."""
    if settings.text("FL_USE_CASE") == NO_USE_CASE:
        return ""
    return find_problem(settings.text(name), settings.text("ML_FRAMEWORK"))


def _personal(settings: Settings) -> str:
    use_case, kind, model = (settings.text(f"FL_{name}") for name in ("USE_CASE", "PERSONALIZATION", "MODEL"))
    framework = settings.text("ML_FRAMEWORK")
    if kind == "none" or use_case == NO_USE_CASE:
        return ""
    if problem := impersonal(use_case):
        return f"is {kind!r}; {problem}"
    if kind == "fedbn" and not (model == BATCH_NORM and FRAMEWORKS[framework].is_pytorch):
        return f"is {kind!r}; it needs a model with batch normalisation: FL_MODEL={BATCH_NORM} and PyTorch."
    return ""


def precision_problem(precision: str, framework: str) -> str:
    """Return why a pre-built app cannot train in this precision (FL_MIXED_PRECISION), or an empty text."""
    if precision == FULL or FRAMEWORKS[framework].is_pytorch:
        return ""
    return f"is {precision!r}; {framework} trains in full precision, so use {FULL!r}, or PyTorch."


def _fine_tuned(settings: Settings) -> str:
    epochs, problem = settings.integer("FL_FINE_TUNE_EPOCHS"), impersonal(settings.text("FL_USE_CASE"))
    return f"is {epochs}; {problem}" if epochs and problem else ""


def _of_trees(settings: Settings) -> str:
    strategy, privacy = settings.text("FL_STRATEGY"), settings.text("FL_PRIVACY")
    if strategy not in TREE_STRATEGIES or privacy == "none":
        return ""
    return f"is {privacy!r}; {strategy} combines trees, which cannot get noise, so use 'none'."


def _packages(settings: Settings) -> str:
    wanted, index = read_packages(settings.text("FL_PACKAGES")), settings.text("FL_PACKAGE_INDEX")
    if not wanted:
        return ""
    if not index:
        return "is set, which needs FL_PACKAGE_INDEX: an https URL of a package index, or a folder of wheels."
    if not is_folder(index) and (lists := [each.text for each in wanted if each.is_list]):
        return f"names the list {lists[0]}; expected FL_PACKAGE_INDEX to be the folder with it, not {index}."
    if settings.flag("FL_PACKAGE_HASHES") and (wrong := [each.text for each in wanted if not each.is_verified]):
        return (
            f"has {wrong[0]}; expected name==version --hash=sha256:... for each, which `oneflower bundle` prints. With "
            "FL_PACKAGE_HASHES=NO packages are installed without a check."
        )
    return ""


def _metrics_port(settings: Settings) -> str:
    addresses = filter(None, (settings.text("FL_FLEET_API_ADDRESS"), settings.text("FL_CONTROL_API_ADDRESS")))
    port = settings.integer("FL_METRICS_PORT")
    if not settings.flag("FL_METRICS_ENABLED") or port not in [split_address(address)[1] for address in addresses]:
        return ""
    return f"is {port}; expected another port than those of FL_FLEET_API_ADDRESS and FL_CONTROL_API_ADDRESS."


RULES: tuple[tuple[tuple[str, ...], Callable[[Settings], str]], ...] = (
    (("FL_MIN_AVAILABLE_CLIENTS", "FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS"), _min_available),
    (("FL_NUM_MALICIOUS", "FL_STRATEGY", "FL_MIN_AVAILABLE_CLIENTS"), _malicious),
    (("FL_DP_CLIPPING", "FL_PRIVACY"), _private),
    (("FL_SECURE_AGGREGATION", "FL_STRATEGY", "FL_PRIVACY", "FL_DP_CLIPPING", "FL_MIN_FIT_CLIENTS"), _secure),
    (("FL_DP_MAX_EPSILON", "FL_PRIVACY", "FL_DP_CLIPPING", "FL_STRATEGY"), _budget),
    (("FL_SSL_CERTFILE", "FL_SSL_CA_CERTFILE", "FL_SSL_KEYFILE"), _own_certificate),
    (("ML_FRAMEWORK", "FL_USE_CASE"), _framework),
    (("FL_MODEL", "FL_USE_CASE"), _model),
    (
        ("FL_STRATEGY", "ML_FRAMEWORK", "FL_USE_CASE"),
        partial(_fits_framework, name="FL_STRATEGY", find_problem=strategy_problem),
    ),
    (("FL_PRIVACY", "FL_STRATEGY"), _of_trees),
    (("FL_PERSONALIZATION", "FL_USE_CASE", "ML_FRAMEWORK", "FL_MODEL"), _personal),
    (
        ("FL_MIXED_PRECISION", "FL_USE_CASE", "ML_FRAMEWORK"),
        partial(_fits_framework, name="FL_MIXED_PRECISION", find_problem=precision_problem),
    ),
    (("FL_FINE_TUNE_EPOCHS", "FL_USE_CASE"), _fine_tuned),
    (("FL_SUPERNODE_AUTH", "FL_TLS_ENABLED"), _authentication),
    (("FL_PROXY", "FL_TLS_ENABLED"), _proxy),
    (("FL_INVITATION", "FL_TLS_ENABLED", "FL_SUPERNODE_AUTH"), _invited),
    (("FL_MIN_SITES", "FL_SITES"), _sites),
    (("FL_PACKAGES", "FL_PACKAGE_INDEX", "FL_PACKAGE_HASHES"), _packages),
    (("FL_METRICS_PORT", "FL_METRICS_ENABLED", "FL_FLEET_API_ADDRESS", "FL_CONTROL_API_ADDRESS"), _metrics_port),
    *schedule_rules.RULES,
)
