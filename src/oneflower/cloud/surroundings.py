"""What the client needs and what differs between OpenNebula and the local cloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.status import FederationStatus
    from oneflower_appliance.app_packages import Declaration

    Tell = Callable[[str], None]


@dataclass(frozen=True)
class Installed:
    """The packages that machines have, besides those that they publish: releases by normalised name.

    `variant` are those of their runtime or image variant. `apps` are those that only one app has, by its name.
    """

    variant: Mapping[str, str]
    apps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Tail(Protocol):
    """The console of a machine."""

    def last(self, lines: int | None = None) -> list[str]:
        """Return its last lines, None for all."""

    def news(self) -> list[str]:
        """Return the lines that came since the last look."""


class Surroundings(Protocol):
    """One of the two sides. Every method may raise `OneflowerError`. `tell` receives each step that takes a while."""

    def template(self, cloud: Cloud) -> int:
        """Return the id of the service template to deploy from."""

    def prepare(self, version: str, framework: str, tell: Tell) -> None:
        """Prepare, before anything is deployed, what the machines will need from this side."""

    def flwr(self, version: str, framework: str, tell: Tell) -> tuple[Path, Mapping[str, str]]:
        """Return the `flwr` command of a release, and the packages that the machines have: releases by name."""

    def needs(self, status: FederationStatus, package: str) -> Sequence[str]:
        """Return what a package that the machines have needs, with its extras: lines of its metadata."""

    def installed(self, status: FederationStatus) -> Installed:
        """Return the packages that the machines have, as far as that is known without preparing anything."""

    def app_packages(self, status: FederationStatus, app: Path, declaration: Declaration) -> Mapping[str, str]:
        """Return the packages that were installed for this app alone, which is in the folder `app`."""

    def install(self, status: FederationStatus, app: Path, declaration: Declaration, missing: Sequence[str]) -> None:
        """Install what an app needs for these lines of its dependencies, for this app alone."""

    def remedy(self) -> str:
        """Return how machines get packages that an app needs and they lack."""

    def reach(self, status: FederationStatus) -> AbstractContextManager[str]:
        """Make the SuperLink's Control API reachable and yield its address, host:port."""

    def trouble(self) -> str:
        """Return what is wrong with this side as a whole, such as a full disk, or an empty text."""

    def pins(self) -> Path:
        """Return the folder for pins: what a SuperLink without a proof published at the first connection."""

    def audit(self) -> Path:
        """Return the folder of the operator's audit log."""

    def held(self, vm: int, content: str) -> bytes | None:
        """Return the bundle of an app that waits on a machine for an approval; None if it cannot be read from here."""

    def console(self, vm: int, lines: int) -> list[str]:
        """Return the last lines of a machine's console, or none if this side keeps no consoles."""

    def tail(self, vm: int) -> Tail | None:
        """Return a machine's console, to follow it, or None if this side keeps no consoles."""

    def journal(self, ip: str) -> str:
        """Return how to see what apps print on the machine at `ip`, or an empty text if its console has it."""

    def revive(self) -> Endpoints | None:
        """Restart the cloud's servers if they have ended and we can. Returns None if nothing was done."""

    def when_unreachable(self, variable: str) -> str:
        """Return what to do about a server that does not answer. `variable` holds its address."""
