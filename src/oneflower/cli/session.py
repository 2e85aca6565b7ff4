"""Which cloud the commands of this process speak to."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from oneflower.opennebula import NAME

if TYPE_CHECKING:
    from oneflower.cloud import Cloud


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
    def cloud(cls, template: str = NAME) -> Cloud:
        """Connect. Starts the local cloud if that is chosen and does not run."""
        from oneflower import api  # noqa: PLC0415 - costs time that --help need not spend
        from oneflower.cli.screen import say  # noqa: PLC0415 - which needs no session

        return api.local_cloud(say, template) if cls.is_local() else api.opennebula_cloud(template, tell=say)
