"""uv, which installs packages: how it is called here, and where it looks for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oneflower.process import run
from oneflower.runtimes.package_index import find_links

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Uv:
    """uv at work in a folder of ours, so that the settings of the project we happen to be called from do not count.

    The user's own settings and environment do: they name the package index. `what` completes "Cannot ...", and `hint`
    says what to do then.
    """

    def __init__(self, folder: Path, what: str, hint: str) -> None:
        self._folder = folder
        self._what = what
        self._hint = hint

    def __call__(self, *arguments: str) -> str:
        """Run uv and return what it prints. Raises `OneflowerError`."""
        from uv import find_uv_bin  # noqa: PLC0415 - only needed here

        command = [find_uv_bin(), "--quiet", "--directory", str(self._folder), *arguments]
        return run(command, self._what, self._hint, {"UV_SYSTEM_CERTS": "1", **os.environ})


def wheels_only(links: Sequence[str] | None = None) -> list[str]:
    """Return the options with which nothing is built from source, and pip's `links` are searched too.

    A package that is built from source has a build system, which nothing pins, and which runs its own code.
    """
    found = find_links() if links is None else links
    return ["--only-binary", ":all:", *(word for link in found for word in ("--find-links", link))]
