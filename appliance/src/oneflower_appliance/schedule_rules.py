"""The rules between the variables of a schedule and the others (`settings.resolve` applies them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.cron import Timetable
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.use_cases import NO_USE_CASE, TREE_STRATEGIES, USE_CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _times(settings: Mapping[str, str]) -> str:
    text = settings["FL_SCHEDULE"].strip()
    if text and (problem := _unreadable(text)):
        return f"is {text!r}: {problem}; expected {PARAMETERS['FL_SCHEDULE'].expects}."
    return ""


def _unreadable(text: str) -> str:
    try:
        Timetable.parse(text, "UTC")
    except ValueError as error:
        return str(error)
    return ""


def _use_case(settings: Mapping[str, str]) -> str:
    text = settings["FL_SCHEDULE"].strip()
    if not text or settings["FL_USE_CASE"].strip() != NO_USE_CASE or _unreadable(text):
        return ""
    return f"is {text!r}, which starts the run of FL_USE_CASE again; expected that to be one of {', '.join(USE_CASES)}."


def _begins(settings: Mapping[str, str]) -> str:
    names = ("FL_SCHEDULE_FROM", "FL_STRATEGY", "FL_PERSONALIZATION")
    begins, strategy, kind = (settings[name].strip() for name in names)
    if begins == "none" or not settings["FL_SCHEDULE"].strip():
        return ""
    if strategy in TREE_STRATEGIES:
        return f"is {begins!r}; with {strategy} each run would add its trees to those of the last, so use 'none'."
    if kind != "none":
        return f"is {begins!r}; with FL_PERSONALIZATION={kind} nodes begin with new layers of their own, so use 'none'."
    return ""


RULES: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, str]], str]], ...] = (
    (("FL_SCHEDULE",), _times),
    (("FL_SCHEDULE", "FL_USE_CASE"), _use_case),
    (("FL_SCHEDULE_FROM", "FL_SCHEDULE", "FL_STRATEGY", "FL_PERSONALIZATION"), _begins),
)
