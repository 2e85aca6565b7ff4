"""Which cloud the commands of this process speak to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.contexts import CloudName, Context, Contexts, choose
from oneflower.opennebula import NAME

if TYPE_CHECKING:
    from oneflower.cloud import Cloud
    from oneflower.local.home import LocalHome


__all__ = ["CloudName", "Session"]


class Session:
    """The cloud that `--context` or `--cloud` chose, and the contexts that there are."""

    chosen = Context()
    contexts = Contexts(Path())

    @classmethod
    def choose(cls, file: Path | None, name: str, cloud: CloudName | None) -> None:
        """Read the contexts of a file (None: this user's) and choose one. Raises `OneflowerError`."""
        cls.contexts = Contexts.load(file)
        cls.chosen = choose(cls.contexts, name, cloud)

    @classmethod
    def is_local(cls) -> bool:
        """Whether it is a local cloud."""
        return cls.chosen.cloud is CloudName.LOCAL

    @classmethod
    def home(cls) -> LocalHome:
        """Return the folders of the local cloud that was chosen."""
        from oneflower.clouds import home_of  # noqa: PLC0415 - costs time that --help need not spend

        return home_of(cls.chosen)

    @classmethod
    def cloud(cls, template: str = NAME) -> Cloud:
        """Connect. Starts the local cloud if that is chosen and does not run."""
        return cls.connect(cls.chosen, template)

    @classmethod
    def connect(cls, context: Context, template: str = NAME) -> Cloud:
        """Connect to the cloud of any context."""
        from oneflower import api  # noqa: PLC0415 - costs time that --help need not spend
        from oneflower.cli.screen import say  # noqa: PLC0415 - which needs no session

        return api.connect(context, template, tell=say)
