"""Mounts a device for as long as something is read from it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from oneflower_appliance.process import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@contextmanager
def mounted(device: Path, where: Path, options: Sequence[str], refused: Callable[[str], Exception]) -> Iterator[Path]:
    """Mount a device in the folder `where`, with options of mount(8). Raises what `refused` makes of mount's words."""
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    status, said = call(["mount", *options, str(device), str(where)])
    if status:
        raise refused(" ".join(said.split()))
    try:
        yield where
    finally:
        call(["umount", "--lazy", str(where)])
