"""The values of the variables: given values over the defaults, each checked, and all rules between them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, of_level
from oneflower_appliance.removed import REMOVED
from oneflower_appliance.setting_rules import RULES
from oneflower_appliance.values import Settings

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping


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
    for names, rule in RULES:
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
