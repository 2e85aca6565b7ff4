"""What all parts of the page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from oneflower.web.background import Background
from oneflower.web.downloads import Downloads
from oneflower.web.followers import Followers
from oneflower.web.jobs import Jobs
from oneflower.web.looks import Looks
from oneflower.web.pages import Pages
from oneflower.web.signal import Signal
from oneflower.web.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.api import Cloud
    from oneflower.web.guard import Keys


@dataclass(frozen=True)
class Office:
    """One start of the page."""

    pages: Pages
    background: Background
    looks: Looks
    followers: Followers
    jobs: Jobs
    streams: Streams
    downloads: Downloads

    @classmethod
    def open(cls, connect: Callable[[], Cloud], where: str, keys: Keys) -> Self:
        """Return one for a cloud."""
        background, signal = Background(connect), Signal()
        return cls(
            Pages(where, keys),
            background,
            Looks(background, signal),
            Followers(background, signal),
            Jobs(background, signal),
            Streams(signal),
            Downloads(),
        )
