"""The kinds of services, and what each has: roles, variables, a form, and how it may be scaled."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.form import Group
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, form_fields
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.settings import Bounds, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower_appliance.form import Field
    from oneflower_appliance.parameter import Parameter

_HOMES = {Level.SERVICE: (COORDINATOR, NODES), Level.SUPERLINK: (COORDINATOR,), Level.SUPERNODE: (NODES,)}
# SuperNodes are asked for it. A service without SuperNodes is asked in their place: ServerApps need it, too.
_FRAMEWORK = "ML_FRAMEWORK"
# A SuperLink starts what the SuperNodes of its own service name, and no site decides that.
_USE_CASE = "FL_USE_CASE"
# A coordinator has no run of its own that could be started again.
_OF_SCHEDULE = ("FL_SCHEDULE", "FL_SCHEDULE_ZONE", "FL_SCHEDULE_FROM", "FL_MIN_GAIN")
# How a site knows its coordinator.
_ADDRESS, _CA, _INVITATION = "FL_SUPERLINK_ADDRESS", "FL_SSL_CA_CERTFILE", "FL_INVITATION"


class ServiceKind(StrEnum):
    """A federation has a SuperLink and SuperNodes, a coordinator only a SuperLink, a site only SuperNodes.

    The kind of a service and of a service template follows from the roles. It is stored nowhere else.
    """

    FEDERATION = "federation"
    COORDINATOR = "coordinator"
    SITE = "site"

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ServiceKind | None:
        """Return the kind of a service, or of a service template; None if it has none of our roles."""
        roles = body.get("roles")
        entries = roles if isinstance(roles, list) else []
        names = [role.get("name") for role in entries if isinstance(role, dict)]
        return next((kind for kind in cls if all(role in names for role in kind.roles)), None)

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of its roles, in the order in which they boot."""
        return _ROLES[self]

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of its variables."""
        return tuple(level for level, homes in _HOMES.items() if set(homes) & set(self.roles))

    @property
    def also(self) -> tuple[str, ...]:
        """The names of its variables of other levels."""
        return (_FRAMEWORK,) if self is ServiceKind.COORDINATOR else ()

    def template_name(self, name: str) -> str:
        """Return the name of the service template of this kind; `name` is that of the federations'."""
        return name if self is ServiceKind.FEDERATION else f"{name}-{self}"

    def bounds(self, least: int | None = None, most: int | None = None, supernodes: int | None = None) -> Bounds | None:
        """Return the bounds of scaling, the usual ones where None is given. None if it has no SuperNodes.

        Raises `OneflowerError` if it has none, and something is given.
        """
        usual = Bounds(1, 10, 1) if self is ServiceKind.SITE else Bounds()
        if NODES in self.roles:
            least = usual.minimum if least is None else least
            number = max(usual.cardinality, least) if supernodes is None else supernodes
            return Bounds(least, usual.maximum if most is None else most, number)
        if (least, most, supernodes) == (None, None, None):
            return None
        raise OneflowerError(
            "A coordinator has no SuperNodes of its own.",
            "Leave their number and limits out. Each site deploys its SuperNodes with `--kind site`.",
            ExitCode.USAGE,
        )

    def homes(self, parameter: Parameter) -> tuple[str, ...]:
        """Return the roles that need a variable. None needs it if it is not one of this kind."""
        if parameter.name in self.also:
            return self.roles
        if self is ServiceKind.SITE and parameter.name == _USE_CASE:
            return ()
        if self is ServiceKind.COORDINATOR and parameter.name in _OF_SCHEDULE:
            return ()
        return tuple(role for role in self.roles if role in _HOMES[parameter.level])

    def may_ask(self, parameter: Parameter) -> bool:
        """Whether a service may ask for a variable on service level, from where it reaches every machine.

        A secret may reach only the machines that need it.
        """
        return not parameter.secret or self.homes(parameter) == self.roles

    def parameters(self, role: str | None = None) -> list[Parameter]:
        """Return the variables that a service of this kind asks for on service level (None), or in a role."""
        own = [p for p in PARAMETERS.values() if (p.level is Level.SERVICE) == (role is None)]
        return [parameter for parameter in own if role is None or role in self.homes(parameter)]

    def problems(self, given: Mapping[str, str], values: Mapping[str, str]) -> Iterator[Problem]:
        """Yield what is wrong with variables that were `given`, for this kind, and what is missing in all `values`."""
        for name in given:
            if name in PARAMETERS and not self.homes(PARAMETERS[name]):
                why = "it starts no run by itself" if name in _OF_SCHEDULE else _DECIDED[self]
                yield Problem(name, f"is not a variable of a {self}: {why}.")
        if self is not ServiceKind.SITE or values.get(_INVITATION):  # which names both
            return
        if not values.get(_ADDRESS):
            yield Problem(_ADDRESS, "is empty; a site needs the address of its coordinator's SuperLink, host:port.")
        if values.get("FL_TLS_ENABLED") == "YES" and not values.get(_CA):
            yield Problem(_CA, "is empty; a site needs the CA certificate by which it knows its coordinator.")

    def form_fields(self) -> list[tuple[Field, Parameter]]:
        """Return what the form of this kind asks for, in its order."""
        only = {Group.JOIN: ServiceKind.SITE, Group.SITES: ServiceKind.COORDINATOR}
        groups = [group for group in Group if only.get(group, self) is self]
        return [(field, parameter) for field, parameter in form_fields(groups) if self.homes(parameter)]

    def form_groups(self) -> list[tuple[str, str, str]]:
        """Return the groups of the form of this kind, in its order: name, title and help of each."""
        shown = dict.fromkeys(field.group for field, _ in self.form_fields())
        return [(group.name, *_TEXTS.get((self, group), (group.title, group.help))) for group in shown]


_DECIDED = {
    ServiceKind.FEDERATION: "",
    ServiceKind.COORDINATOR: "each site sets it for its SuperNodes",
    ServiceKind.SITE: "the coordinator decides it",
}
_ROLES = {
    ServiceKind.FEDERATION: (COORDINATOR, NODES),
    ServiceKind.COORDINATOR: (COORDINATOR,),
    ServiceKind.SITE: (NODES,),
}
# What the form says above a group, where it differs from what a federation's says.
_TEXTS = {
    (ServiceKind.COORDINATOR, Group.TRAINING): (
        "How to train",
        "What runs do unless they say otherwise. The SuperLink's machine shows progress in its attributes FL_RUN_*.",
    ),
    (ServiceKind.COORDINATOR, Group.NODES): ("Nodes", "The nodes belong to sites, which deploy them."),
    (ServiceKind.SITE, Group.TRAINING): ("Framework", "The coordinator says which one its apps need."),
}
