"""The form that deploys a federation: a question for each declared variable, and what was wrong with an answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower.api import Federation
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.form import OF_FEDERATION, Group
from oneflower_appliance.parameter import Kind, Level
from oneflower_appliance.parameters import PARAMETERS, form_fields
from oneflower_appliance.settings import InvalidParametersError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.api import Cloud
    from oneflower_appliance.parameter import Parameter

NAME, SUPERNODES, LEAST, MOST = "name", "supernodes", "min_vms", "max_vms"
LABELS = {
    NAME: "Name",
    SUPERNODES: "SuperNodes",
    LEAST: "Never fewer SuperNodes than",
    MOST: "Never more SuperNodes than",
}
_LEVELS = {
    Level.SERVICE: "More for all machines",
    Level.SUPERLINK: "More for the SuperLink",
    Level.SUPERNODE: "More for the SuperNodes",
}


_OF_SUNSTONE = (Group.TRAINING, Group.NODES)  # what they tell a tenant is true there only


@dataclass(frozen=True)
class Question:
    """One field. `kind` is choice, number, text or long. `only` names another field and the values it must have."""

    name: str
    label: str
    value: str
    expects: str
    kind: str = "text"
    options: tuple[str, ...] = ()
    only: tuple[str, str] = ("", "")
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """Questions that belong together. One that is `more` is closed until a person opens it."""

    title: str
    help: str
    questions: tuple[Question, ...]
    more: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is shown open."""
        return not self.more or any(question.problem for question in self.questions)


@dataclass(frozen=True)
class Wish:
    """What a person wants to deploy, as `Federation.deploy` takes it: only settings that differ from the defaults."""

    name: str
    supernodes: int
    limits: tuple[int | None, int | None]
    settings: dict[str, str]

    @classmethod
    def of(cls, given: Mapping[str, str], defaults: Mapping[str, str]) -> Wish:
        """Read the fields of the form. Raises `InvalidParametersError`."""
        problems: list[Problem] = []

        def number(name: str, *, needed: bool) -> int | None:
            text = given.get(name, "").strip()
            if not text and not needed:
                return None
            if text.isascii() and text.isdigit() and len(text) < 10:
                return int(text)
            problems.append(Problem(name, f"is {text!r}; expected a number."))
            return None

        supernodes = number(SUPERNODES, needed=True)
        limits = number(LEAST, needed=False), number(MOST, needed=False)
        if problems:
            raise InvalidParametersError(problems)
        settings = {
            name: given[name].replace("\r\n", "\n")
            for name in PARAMETERS
            if name in given and given[name].replace("\r\n", "\n").strip() != _default(name, defaults).strip()
        }
        return cls(given.get(NAME, "").strip(), supernodes or 0, limits, settings)


def check(cloud: Cloud, given: Mapping[str, str]) -> tuple[str, ...]:
    """Check all answers, and return remarks on them. Raises `InvalidParametersError` with everything that is wrong."""
    defaults = Federation.defaults(cloud)
    found: dict[str, str] = {}

    def look(answers: Mapping[str, str], *, named: bool) -> tuple[str, ...]:
        try:
            wish = Wish.of(answers, defaults)
            name = wish.name if named else None
            return Federation.check(cloud, wish.supernodes, wish.settings, name, wish.limits)
        except OneflowerError as error:
            found.update({where: text for where, text in problems(error).items() if where not in found})
            return ()

    remarks = look(given, named=True)
    if found:  # with a wrong number, the name was not looked at, and with a wrong name the settings were not
        numbers = {SUPERNODES: "2", LEAST: "", MOST: ""} if found.keys() & {SUPERNODES, LEAST, MOST} else {}
        for named in (True, False):
            look({**given, **numbers}, named=named)
        raise InvalidParametersError(Problem(where, text) for where, text in found.items())
    return remarks


def free_name(cloud: Cloud) -> str:
    """Return a name that no federation has."""
    taken = {federation.name for federation in Federation.all(cloud)}
    return next(
        name for number in itertools.count(1) if (name := f"lab-{number}" if number > 1 else "lab") not in taken
    )


def questions(defaults: Mapping[str, str], given: Mapping[str, str], error: OneflowerError | None = None) -> list[Part]:
    """Return the form: `given` answers over the defaults, and what is wrong with them according to `error`."""
    found = {} if error is None else problems(error)
    asked = [parameter for _, parameter in form_fields()]
    parts = [Part("The federation", "", tuple(_basics(given, found)))]
    for group in OF_FEDERATION:
        fields = [(field, parameter) for field, parameter in form_fields() if field.group is group]
        rows = tuple(_question(parameter, field.label, defaults, given, found) for field, parameter in fields)
        parts.append(
            Part(group.title, "" if group in _OF_SUNSTONE else group.help, rows, more=group is not Group.TRAINING)
        )
    parts.append(Part("Limits of scaling", "", tuple(_limits(given, found)), more=True))
    for level, title in _LEVELS.items():
        rest = [p for p in PARAMETERS.values() if p.level is level and p not in asked]
        parts.append(Part(title, "", tuple(_question(p, "", defaults, given, found) for p in rest), more=True))
    return parts


def problems(error: OneflowerError) -> dict[str, str]:
    """Return what is wrong, by field. What belongs to none is with the name of the federation."""
    if isinstance(error, InvalidParametersError):
        return {problem.where: problem.text for problem in error.problems}
    return {NAME: error.sentence}


def _basics(given: Mapping[str, str], found: Mapping[str, str]) -> list[Question]:
    rows = (
        (NAME, "lab", "letters, digits, '.', '_' and '-'", "text"),
        (SUPERNODES, "2", "how many machines train, each with its share of the data", "number"),
    )
    return [
        Question(name, LABELS[name], given.get(name, value), expects, kind, problem=found.get(name, ""))
        for name, value, expects, kind in rows
    ]


def _limits(given: Mapping[str, str], found: Mapping[str, str]) -> list[Question]:
    expects = "a number; empty = as the service template says"
    return [
        Question(name, LABELS[name], given.get(name, ""), expects, "number", problem=found.get(name, ""))
        for name in (LEAST, MOST)
    ]


def _question(
    parameter: Parameter, label: str, defaults: Mapping[str, str], given: Mapping[str, str], found: Mapping[str, str]
) -> Question:
    name, options = parameter.name, parameter.options
    kind = {Kind.PEM: "long", Kind.NUMBER: "number", Kind.FLOAT: "number"}.get(parameter.kind, "text")
    if parameter.kind is Kind.BOOLEAN:
        options = ("YES", "NO")
    other, values = parameter.only or ("", ())
    expects = "" if options else parameter.expects  # what can be chosen is to be seen
    return Question(
        name, label or parameter.meaning, given.get(name, _default(name, defaults)), expects,
        "choice" if options else kind, options, (other, " ".join(values)), found.get(name, ""),
    )  # fmt: skip


def _default(name: str, defaults: Mapping[str, str]) -> str:
    return defaults.get(name, PARAMETERS[name].default)
