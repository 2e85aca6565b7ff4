"""Which SuperNodes are there when a run is started, and what a person should know of those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.cloud.scaling import nodes_needed
from oneflower.opennebula import ServiceKind
from oneflower.printable import counted
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from oneflower.cloud.status import FederationStatus
    from oneflower_appliance.node_state import NodeState
    from oneflower_appliance.site_choice import SiteChoice

_LEAST = tuple(
    str(PARAMETERS[name].key) for name in ("FL_MIN_AVAILABLE_CLIENTS", "FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS")
)


def number_online(nodes: Sequence[NodeState], choice: SiteChoice) -> int:
    """Return how many SuperNodes of the chosen sites are online."""
    return sum(node.online and choice.admits(site_of(node.name)) for node in nodes)


def remarks(
    status: FederationStatus, nodes: Sequence[NodeState], choice: SiteChoice, overrides: Mapping[str, object]
) -> Iterator[str]:
    """Say for what the first round of a run waits. `overrides` are those of the app's configuration.

    Raises `OneflowerError` if nothing could ever begin.
    """
    if status.kind is ServiceKind.COORDINATOR and not any(node.online for node in nodes):
        raise OneflowerError(
            f"{status.name} is a coordinator, and no SuperNode is connected to it.",
            f"See who asks and who is away: `oneflower sites {status.name}`. To have a site deploy some: "
            f"`oneflower invite {status.name} --site NAME --file .`",
            ExitCode.CONFLICT,
        )
    online = number_online(nodes, choice)
    needed = int(str(overrides.get(_LEAST[0], nodes_needed(status.settings))))
    if online < needed and choice.sites:
        fewer = " ".join(f"-c {key}={online}" for key in _LEAST)
        remedy = f" To begin with what is there: `{fewer}`." if online else ""
        are = "is" if online == 1 else "are"
        yield (
            f"{counted(online, 'SuperNode')} of {', '.join(choice.sites)} {are} online; the first round waits for "
            f"{needed}.{remedy}"
        )
    elif online < needed:
        yield f"{online} of {needed} SuperNodes are online; the first round waits for the others."
    known = {site_of(node.name) for node in nodes} - {""}
    there = {site_of(node.name) for node in nodes if node.online} & {site for site in known if choice.admits(site)}
    if (shortage := choice.shortage(there, known)) and not choice.problem(known):
        yield f"{shortage} The first round waits for them."
