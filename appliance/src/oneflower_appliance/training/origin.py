"""Where a run comes from, when it takes the place of one that was lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """The run that this one goes on from, and the first of all these, whose checkpoints they share."""

    FILE: ClassVar[str] = "origin.json"
    SUCCESSOR: ClassVar[str] = "successor"
    LOST: ClassVar[str] = "lost"  # a file that says that the run's SuperLink was started again in the middle of it

    resumes: str
    first: str
    attempt: int = 1

    @property
    def text(self) -> str:
        """The content of the file in the run's folder."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of(cls, folder: Path) -> Origin:
        """Return what the folder of a run says; a run that goes on from none is the first itself."""
        try:
            return cls(**json.loads((folder / cls.FILE).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return cls("", folder.name)

    @classmethod
    def successor(cls, folder: Path) -> str:
        """Return the id of the run that took the place of the one in `folder`, empty where none did."""
        try:
            return (folder / cls.SUCCESSOR).read_text(encoding="utf-8").strip()
        except OSError:
            return ""
