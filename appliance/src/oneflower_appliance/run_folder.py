"""The folder of a run: the names of its files, and which run it resumes, if it takes the place of one that was lost.

On the SuperLink it is `runs`/<run id>. The ServerApp's process, the SuperLink's and the agent write into it, and the
client reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

METRICS = "metrics.jsonl"  # a row for each round
MODEL = "model.npz"
RESULT = "result.json"  # what the run was, written when it ends
DATA = "data.json"  # what data the nodes said that they have
NODES = "nodes.json"  # the nodes that it has asked for anything so far
FAILURE = "failure.json"  # message and hint of the error of oneflower's own that ended its ServerApp
FILES = "files"  # the folder that its ServerApp works in
ORIGIN = "origin.json"
SUCCESSOR = "successor"  # the id of the run that took its place
LOST = "lost"  # why the run was lost: what died during it
GIVEN_UP = "given-up"  # why a lost run is not resumed

OURS = frozenset({METRICS, MODEL, RESULT, DATA, NODES, FAILURE, ORIGIN, SUCCESSOR, LOST, GIVEN_UP})


@dataclass(frozen=True)
class Origin:
    """The run that this one resumes, and the first in this line, whose checkpoints they all share."""

    FILE: ClassVar[str] = ORIGIN
    SUCCESSOR: ClassVar[str] = SUCCESSOR
    LOST: ClassVar[str] = LOST
    GIVEN_UP: ClassVar[str] = GIVEN_UP

    resumes: str
    first: str
    attempt: int = 1

    @property
    def text(self) -> str:
        """The content of the file in the run's folder."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of(cls, folder: Path) -> Origin:
        """Return the origin of the run in a folder. A run that resumes none is the first itself."""
        try:
            return cls(**json.loads((folder / cls.FILE).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return cls("", folder.name)

    @classmethod
    def line(cls, folder: Path) -> list[Path]:
        """Return the folders of a run, of the run that it resumes, and so on, back to the first."""
        folders = [folder]
        while before := cls.of(folders[-1]).resumes:
            folders.append(folder.parent / before)
        return folders

    @classmethod
    def successor(cls, folder: Path) -> str:
        """Return the id of the run that took the place of the one in `folder`, empty if none did."""
        return cls.said(folder, cls.SUCCESSOR)

    @classmethod
    def said(cls, folder: Path, name: str) -> str:
        """Return what one of these files in the folder of a run says, empty if there is no such file."""
        try:
            return (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            return ""
