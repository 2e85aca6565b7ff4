"""The values of the variables: given values over the defaults, each checked, and all rules between them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance import schedule_rules
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import split_address
from oneflower_appliance.gpu_parameters import FULL
from oneflower_appliance.packages import is_folder, read_packages
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import MEAN_STRATEGIES, PARAMETERS, STRATEGIES, of_level
from oneflower_appliance.removed import REMOVED
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
    from collections.abc import Callable, Container, Iterable


_SECURE_NODES = 3  # of two updates, the sum and one of them show the other


@dataclass(frozen=True)
class Bounds:
    """How many SuperNodes a federation has, and the limits within which OneFlow may scale it."""

    minimum: int = 2
    maximum: int = 10
    cardinality: int = 2


@dataclass(frozen=True)
class Problem:
    """One invalid setting: where it is, and what is expected there."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class InvalidParametersError(OneflowerError):
    """All invalid settings, together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = "1 setting is not valid" if count == 1 else f"{count} settings are not valid"
        super().__init__(
            heading + ":\n" + "\n".join(f"  {problem}" for problem in self.problems),
            "Every variable is described in docs/parameters.md. Nothing was started.",
            ExitCode.INVALID_INPUT,
        )

    @property
    def sentence(self) -> str:
        """All problems on one line, as published in FL_ERROR."""
        return "; ".join(map(str, self.problems))


class Settings(Mapping[str, str]):
    """Validated variables: as text through `[]`, typed through `text`, `integer`, `real` and `flag`."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def text(self, name: str) -> str:
        """Return a text, PEM or list variable."""
        return str(PARAMETERS[name].parse(self._raw[name]))

    def integer(self, name: str) -> int:
        """Return a number variable."""
        return int(PARAMETERS[name].parse(self._raw[name]))

    def real(self, name: str) -> float:
        """Return a number-float variable."""
        return float(PARAMETERS[name].parse(self._raw[name]))

    def flag(self, name: str) -> bool:
        """Return a boolean variable."""
        return bool(PARAMETERS[name].parse(self._raw[name]))

    def of_level(self, level: Level) -> dict[str, str]:
        """Return the raw values of one level, as OneFlow expects them in user_inputs_values."""
        return {name: raw for name, raw in self._raw.items() if PARAMETERS[name].level is level}


def resolve(
    given: Mapping[str, str],
    levels: Iterable[Level] = tuple(Level),
    bounds: Bounds | None = None,
    also: Iterable[str] = (),
) -> Settings:
    """Return the settings of `levels`: `given` over the defaults, each checked, and all rules between them.

    `also` are the names of variables of other levels.

    Raises `InvalidParametersError` with every problem found, not only the first.
    """
    wanted = {parameter.name: parameter for parameter in of_level(*levels)} | {name: PARAMETERS[name] for name in also}
    problems = [Problem(name, _unknown(name)) for name in given if name not in PARAMETERS]
    raw = {name: given.get(name, parameter.default) for name, parameter in wanted.items()}
    for name, parameter in wanted.items():
        try:
            parameter.parse(raw[name])
        except ValueError:
            value = "not valid" if parameter.secret else repr(raw[name])
            problems.append(Problem(name, f"is {value}; expected {parameter.expects}."))
    wrong = {problem.where for problem in problems}
    settings = Settings(raw)
    for names, rule in _RULES:
        if set(names) <= set(raw) and not wrong & set(names) and (text := rule(settings)):
            problems.append(Problem(names[0], text))
    if bounds is not None:
        problems.extend(_bounds_problems(settings, bounds, wrong))
    if problems:
        raise InvalidParametersError(problems)
    return settings


def run_config_keys(names: Iterable[str], has: Container[str] | None = None) -> dict[str, str]:
    """Return those of the variables that have a key in a run config, with that key. `has` are the keys of the app.

    This is the one mapping from a form to a run config, and the one rule for which variables of the form apply to a
    run:

    - A pre-built app has all these keys, and follows the form: `oneflower run` and the run that FL_USE_CASE starts pass
    the form's values as run config. `--config` overrides them. Plain `flwr run` passes nothing: there a pre-built app
    is like any other.
    - An app of the user's own follows its own configuration and code, however it is started (`oneflower run`, `flwr
    run`). What these leave open comes from the form: the number of rounds, if the app starts its strategy without one;
    and the keys of the strategy that are not in its configuration, if it makes its strategy with `make_strategy`.
    - Variables without a key apply to every run: FL_CHECKPOINT_*, for example. FL_ROUND_TIMEOUT does too, unless the
    app starts its strategy with a timeout.

    When a run begins, one line names the variables of the form that were set and do not apply (`uncounted`).
    """
    keys = {name: PARAMETERS[name].key for name in names if name in PARAMETERS and PARAMETERS[name].key}
    return keys if has is None else {name: key for name, key in keys.items() if key in has}


def uncounted(form: Settings, used: Mapping[str, str]) -> str:
    """Return one line that names the variables of a form that were set and do not apply to a run, or an empty text.

    `used` are the values that apply to the run, by variable.
    """
    ignored_here = [
        f"{name}={form[name]}"
        for name in run_config_keys(form)
        if form[name].strip() != PARAMETERS[name].default and used.get(name) != form[name]
    ]
    if not ignored_here:
        return ""
    return (
        f"Of the form, {', '.join(ignored_here)} {'does' if len(ignored_here) == 1 else 'do'} not count in this run: "
        "the app's own configuration does (docs/strategies.md)."
    )


def _unknown(name: str) -> str:
    if name in REMOVED:
        return f"is no longer a variable: {REMOVED[name]}."
    close = difflib.get_close_matches(name.upper(), PARAMETERS, n=1)
    return "is not a variable of oneflower" + (f"; did you mean {close[0]}?" if close else ".")


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


def _strategy(settings: Settings) -> str:
    if settings.text("FL_USE_CASE") == NO_USE_CASE:
        return ""
    return strategy_problem(settings.text("FL_STRATEGY"), settings.text("ML_FRAMEWORK"))


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


def _precision(settings: Settings) -> str:
    if settings.text("FL_USE_CASE") == NO_USE_CASE:
        return ""
    return precision_problem(settings.text("FL_MIXED_PRECISION"), settings.text("ML_FRAMEWORK"))


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


_RULES: tuple[tuple[tuple[str, ...], Callable[[Settings], str]], ...] = (
    (("FL_MIN_AVAILABLE_CLIENTS", "FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS"), _min_available),
    (("FL_NUM_MALICIOUS", "FL_STRATEGY", "FL_MIN_AVAILABLE_CLIENTS"), _malicious),
    (("FL_DP_CLIPPING", "FL_PRIVACY"), _private),
    (("FL_SECURE_AGGREGATION", "FL_STRATEGY", "FL_PRIVACY", "FL_DP_CLIPPING", "FL_MIN_FIT_CLIENTS"), _secure),
    (("FL_DP_MAX_EPSILON", "FL_PRIVACY", "FL_DP_CLIPPING", "FL_STRATEGY"), _budget),
    (("FL_SSL_CERTFILE", "FL_SSL_CA_CERTFILE", "FL_SSL_KEYFILE"), _own_certificate),
    (("ML_FRAMEWORK", "FL_USE_CASE"), _framework),
    (("FL_MODEL", "FL_USE_CASE"), _model),
    (("FL_STRATEGY", "ML_FRAMEWORK", "FL_USE_CASE"), _strategy),
    (("FL_PRIVACY", "FL_STRATEGY"), _of_trees),
    (("FL_PERSONALIZATION", "FL_USE_CASE", "ML_FRAMEWORK", "FL_MODEL"), _personal),
    (("FL_MIXED_PRECISION", "FL_USE_CASE", "ML_FRAMEWORK"), _precision),
    (("FL_FINE_TUNE_EPOCHS", "FL_USE_CASE"), _fine_tuned),
    (("FL_SUPERNODE_AUTH", "FL_TLS_ENABLED"), _authentication),
    (("FL_PROXY", "FL_TLS_ENABLED"), _proxy),
    (("FL_INVITATION", "FL_TLS_ENABLED", "FL_SUPERNODE_AUTH"), _invited),
    (("FL_MIN_SITES", "FL_SITES"), _sites),
    (("FL_PACKAGES", "FL_PACKAGE_INDEX", "FL_PACKAGE_HASHES"), _packages),
    (("FL_METRICS_PORT", "FL_METRICS_ENABLED", "FL_FLEET_API_ADDRESS", "FL_CONTROL_API_ADDRESS"), _metrics_port),
    *schedule_rules.RULES,
)


def _bounds_problems(settings: Settings, bounds: Bounds, wrong: set[str]) -> list[Problem]:
    problems = []
    if not 1 <= bounds.minimum <= bounds.maximum:
        problems.append(
            Problem("min_vms", f"is {bounds.minimum}; expected at least 1 and at most max_vms ({bounds.maximum}).")
        )
    elif not bounds.minimum <= bounds.cardinality <= bounds.maximum:
        problems.append(
            Problem(
                "supernodes",
                f"is {bounds.cardinality}; expected {bounds.minimum} to {bounds.maximum} (min_vms to max_vms).",
            )
        )
    name = "FL_MIN_AVAILABLE_CLIENTS"
    if name in settings and name not in wrong and settings.integer(name) > bounds.minimum:
        problems.append(
            Problem(
                name,
                f"is {settings[name]}; expected at most min_vms ({bounds.minimum}): "
                "a federation scaled down to min_vms could otherwise never start a round.",
            )
        )
    return problems


def ignored(settings: Settings) -> list[str]:
    """Return one line for each variable that was set and does not apply given the value of another."""
    lines = []
    for name, raw in settings.items():
        parameter = PARAMETERS[name]
        if parameter.only is None or raw.strip() == parameter.default:
            continue
        other, values = parameter.only
        if other in settings and settings[other] not in values:
            lines.append(f"{name}={raw} is ignored with {other}={settings[other]}: it is for {', '.join(values)}.")
    return lines
