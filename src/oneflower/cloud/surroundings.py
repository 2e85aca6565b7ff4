"""What the client needs of its surroundings, which differs between OpenNebula and the local cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.status import FederationStatus

    Notify = Callable[[str], None]


class Surroundings(Protocol):
    """One side of the two. Every method raises `OneflowerError`."""

    def template(self, cloud: Cloud) -> int:
        """Return the id of the service template to deploy from."""

    def limits(self, cloud: Cloud) -> tuple[int, int]:
        """Return between how many SuperNodes a federation may be scaled, unless it is deployed with others."""

    def prepare(self, version: str, framework: str, notify: Notify) -> None:
        """Get ready, before anything is deployed, what the machines will need of this side."""

    def flwr(self, version: str, framework: str, notify: Notify) -> tuple[Path, set[str]]:
        """Return the `flwr` command of a release, and the packages that the machines have."""

    def reach(self, status: FederationStatus) -> AbstractContextManager[str]:
        """Make the SuperLink's Control API reachable and yield its address, host:port."""

    def trouble(self) -> str:
        """Return what is wrong with this side as a whole, such as a full disk; nothing where all is well."""

    def pins(self) -> Path:
        """Return the folder for what was published first by SuperLinks whose word cannot be proved."""

    def console(self, vm: int, lines: int) -> list[str]:
        """Return the last lines of a machine's console, none where they cannot be had."""

    def revive(self) -> Endpoints | None:
        """Start the cloud's servers again if they have ended and that is in our power; None where nothing was done."""

    def when_unreachable(self, variable: str) -> str:
        """Return what a person should do about a server, whose address `variable` holds, that does not answer."""
