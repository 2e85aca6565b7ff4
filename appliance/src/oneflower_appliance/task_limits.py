"""What a site's policy says about each task: how long, how much memory, what it may read, and whether it may go out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ANYWHERE, NOWHERE = EGRESS = ("any", "none")
_SIZE = re.compile(r"(\d{1,6}) ?(MiB|GiB)")
_MOST_GPUS = 64
_LONGEST = 30 * 86_400  # seconds


@dataclass(frozen=True)
class TaskLimits:
    """The limits of a task: seconds and MiB (0 for no limit), network, folders that it may read, and GPUs."""

    seconds: int = 0
    memory: int = 0
    egress: str = ANYWHERE
    read_only: tuple[str, ...] = ()
    gpu: bool = True
    max_gpus: int | None = None

    @property
    def gpus(self) -> int | None:
        """How many GPUs a task may use, None for all."""
        return self.max_gpus if self.gpu else 0

    def __str__(self) -> str:
        parts = [f"{self.seconds} s" if self.seconds else "", f"{self.memory} MiB" if self.memory else ""]
        parts += [f"egress {self.egress}", "" if self.gpus is None else f"{self.gpus or 'no'} GPU"]
        parts += [f"reads {', '.join(self.read_only)}" if self.read_only else ""]
        return ", ".join(filter(None, parts))


def seconds(value: Any) -> int:
    """Read a number of seconds. Raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LONGEST:
        raise ValueError(f"is {value!r}; expected seconds, from 1 to {_LONGEST}")
    return value


def memory(value: Any) -> int:
    """Read an amount of memory, in MiB. Raises `ValueError`."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not int(found[1]):
        raise ValueError(f"is {value!r}; expected an amount like 800 MiB or 4 GiB")
    return int(found[1]) << (10 if found[2] == "GiB" else 0)


def egress(value: Any) -> str:
    """Read where a task may connect to. Raises `ValueError`."""
    if value not in EGRESS:
        raise ValueError(f"is {value!r}; expected one of {', '.join(EGRESS)}")
    return str(value)


def folders(value: Any) -> tuple[str, ...]:
    """Read a list of folders. Raises `ValueError`."""
    if not isinstance(value, list):
        raise ValueError("is not a list of folders")  # noqa: TRY004 - the value of a file, not a type of a program
    for one in value:
        if not isinstance(one, str) or not one.startswith("/") or ".." in one.split("/") or not one.strip("/"):
            raise ValueError(f"has {one!r}; expected absolute paths of folders, without ..")
    return tuple(value)


def gpu(value: Any) -> bool:
    """Read whether a task may use GPUs. Raises `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"is {value!r}; expected true or false")  # noqa: TRY004 - as above
    return value


def max_gpus(value: Any) -> int:
    """Read how many GPUs a task may use. Raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_GPUS:
        raise ValueError(f"is {value!r}; expected a number of GPUs, from 0 to {_MOST_GPUS}")
    return value


KEYS: dict[str, Callable[[Any], Any]] = {
    "seconds": seconds, "memory": memory, "egress": egress, "read-only": folders, "gpu": gpu,
    "max-gpus": max_gpus,
}  # fmt: skip
