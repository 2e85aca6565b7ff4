"""The form that a tenant fills in on OpenNebula: its groups, and the place that a variable has in it.

Sunstone makes tabs and groups of the names of inputs, ONEAPP_<APP>_<GROUP>_<FIELD>, and of nothing else. It shows
groups and fields in the order in which it gets them. A boolean field called ENABLED hides the rest of its group until
it is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

APP = "FLOWER"


class Group(Enum):
    """A part of the form, in the form's order: what a tenant reads above its fields."""

    JOIN = ("Coordinator", "What the coordinator's operator gave to this site.")
    TRAINING = (
        "What to train",
        "With a use case it trains by itself. The SuperLink's machine shows progress in its attributes FL_RUN_*.",
    )
    DATA = (
        "Data",
        "Data never leave the node that holds them. Without data of their own the nodes train on an example.",
    )
    PACKAGES = (
        "Packages",
        "For an app of your own that needs more than the image has. Machines install them before they are ready.",
    )
    NODES = (
        "Nodes",
        "The template sets how many SuperNodes it starts with. To change that later: the service, Roles, Manage.",
    )
    SITES = (
        "Sites",
        "They are invited later. A run that an operator starts can choose others: `oneflower run --sites north`.",
    )
    PRIVACY = (
        "Privacy",
        "Differential privacy hides in noise what a single example contributes. More noise costs accuracy.",
    )
    SURVIVAL = (
        "Survival",
        "With checkpoints, training that is interrupted continues from the last one instead of from the start.",
    )
    SCHEDULE = (
        "Schedule",
        "Trains again at these times, as in 0 2 * * * for each night at 2:00. Only with a use case.",
    )
    EXPERT = ("Expert", "A setting that is for another strategy than the chosen one has no effect.")

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        self.help = text


# SuperNodes that are deployed with their SuperLink do not join another one, and most such federations have no sites.
OF_FEDERATION = tuple(group for group in Group if group not in (Group.JOIN, Group.SITES))


@dataclass(frozen=True)
class Field:
    """The place of a variable in the form: its group, its place there, its name, and its label if that differs."""

    group: Group
    place: int
    name: str
    label: str = ""

    @property
    def input(self) -> str:
        """The name of the user input."""
        return f"ONEAPP_{APP}_{self.group.name}_{self.name}"
