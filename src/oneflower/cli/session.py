"""Which cloud the commands of this process speak to."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower.cloud import Cloud, FederationStatus


class CloudName(StrEnum):
    """The clouds there are."""

    LOCAL = "local"
    OPENNEBULA = "opennebula"


class Session:
    """The cloud that `--cloud` chose."""

    chosen = CloudName.LOCAL

    @classmethod
    def is_local(cls) -> bool:
        """Whether it is the local cloud."""
        return cls.chosen is CloudName.LOCAL

    @classmethod
    def cloud(cls) -> Cloud:
        """Connect, starting the local cloud if that is the one and it is not up."""
        from oneflower.cloud import Cloud, Endpoints, opennebula_endpoints  # noqa: PLC0415

        if not cls.is_local():
            return Cloud(opennebula_endpoints())
        from oneflower.local import daemon  # noqa: PLC0415
        from oneflower.local.home import LocalHome  # noqa: PLC0415

        found = daemon.connect(LocalHome.of_user())
        return Cloud(Endpoints(found.oneflow, found.xmlrpc, found.auth))

    @classmethod
    def template(cls) -> Callable[[Cloud], int]:
        """Return how the service template is come by: the local cloud's is ours to register."""
        from oneflower.cloud.register import find_registered, register  # noqa: PLC0415

        return register if cls.is_local() else find_registered

    @classmethod
    def flwr(cls, status: FederationStatus, notify: Callable[[str], None]) -> tuple[Path, set[str]]:
        """Return the `flwr` command of a federation's release, and the packages its machines have."""
        from oneflower.local import runtime  # noqa: PLC0415
        from oneflower.local.home import LocalHome  # noqa: PLC0415

        framework = status.settings.get("ML_FRAMEWORK", "sklearn")
        found = runtime.ensure(LocalHome.of_user(), status.version, framework, notify)
        return found.bin / "flwr", found.packages()
