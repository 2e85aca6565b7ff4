"""The form that a tenant fills in on OpenNebula: its groups, and the place that a variable has in it.

Sunstone makes tabs and groups of the names of inputs, ONEAPP_<APP>_<GROUP>_<FIELD>, and of nothing else. It shows
groups and fields in the order in which it gets them. A boolean field called ENABLED hides the rest of its group until
it is on.
"""

from __future__ import annotations

from dataclasses import dataclass

APP = "FLOWER"
_PREFIX = f"ONEAPP_{APP}_"


@dataclass(frozen=True)
class Group:
    """A part of the form: its name within the inputs' names, and what a tenant reads above its fields."""

    name: str
    title: str
    help: str


TRAINING = Group(
    "TRAINING",
    "What to train",
    "With a use case the federation trains by itself as soon as its machines are ready. The SuperLink's machine tells "
    "of progress in its attributes FL_RUN_*.",
)
DATA = Group(
    "DATA",
    "Data",
    "Data never leave the node that holds them. Without data of their own the nodes train on an example.",
)
NODES = Group(
    "NODES",
    "Nodes",
    "The template says how many SuperNodes there are at first. To have more or fewer later: the service, Roles, Scale.",
)
PRIVACY = Group(
    "PRIVACY",
    "Privacy",
    "Differential privacy hides in noise what a single example contributes. More noise costs accuracy.",
)
SURVIVAL = Group(
    "SURVIVAL",
    "Survival",
    "With checkpoints a training that is interrupted continues by itself after the last one, instead of from the first "
    "round.",
)
EXPERT = Group("EXPERT", "Expert", "A setting that is for another strategy than the chosen one has no effect.")
GROUPS = (TRAINING, DATA, NODES, PRIVACY, SURVIVAL, EXPERT)


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
        return f"{_PREFIX}{self.group.name}_{self.name}"
