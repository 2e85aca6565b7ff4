"""The folder of a run: the names of its files, and which lost run it resumes, if any.

On the SuperLink it is `runs`/<run id>. The ServerApp's process, the SuperLink's and the agent write into it, and the
client reads it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.site_choice import SiteChoice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RUNS = "runs"  # has a folder for each run
CHECKPOINTS = "checkpoints"  # beside it, unless FL_CHECKPOINT_PATH names another folder

INITIAL_RUN = "initial-run"  # in a pre-built app's run config: the run whose model this one begins with, if any

# In the folder of a run.
METRICS = "metrics.jsonl"  # a row for each round
MODEL = "model.npz"
RESULT = "result.json"  # a summary of the run, written when it ends
DATA = "data.json"  # the data that the nodes reported
PERSONAL = "personal.json"  # which layers stay at the nodes, if any do
NODES = "nodes.json"  # the nodes that it has sent anything to so far
MESSAGES = "messages.json"  # how many messages it exchanged with nodes, as long as no strategy does so
WAITING = "waiting"  # that its strategy waits for nodes, as long as it does
NOW = "now.json"  # what it does at this moment (`round_state`), as long as its ServerApp runs
FAILURE = "failure.json"  # message and hint of the `OneflowerError` that ended its ServerApp
FILES = "files"  # the folder that its ServerApp works in
ORIGIN = "origin.json"
CHOICE = "site-choice.json"  # which sites take part in it (`site_choice`), if they were chosen when it was started
SUCCESSOR = "successor"  # the id of the run that resumes it
LOST = "lost"  # why the run was lost: what died during it
GIVEN_UP = "given-up"  # why a lost run is not resumed
ACCEPTED = "accepted"  # of a run of a schedule: its model became that of the federation

_OURS = frozenset(
    {
        METRICS, MODEL, RESULT, DATA, PERSONAL, NODES, MESSAGES, WAITING, NOW, FAILURE, ORIGIN, CHOICE, SUCCESSOR, LOST,
        GIVEN_UP, ACCEPTED,
    }
)  # fmt: skip
_BEST = re.compile(r"best-(\d{5,})\.npz")


def best_model(number: int) -> str:
    """Return the name of the model of round `number`, which is kept because it is one of the best."""
    return f"best-{number:05d}.npz"


def is_ours(name: str) -> bool:
    """Whether a file in the folder of a run is one of these, and not the app's own."""
    return name in _OURS or _BEST.fullmatch(name) is not None


@dataclass(frozen=True)
class Messages:
    """How many messages a ServerApp sent to nodes, and how many were answered with a result or with an error."""

    sent: int = 0
    answered: int = 0
    failed: int = 0

    @property
    def text(self) -> str:
        """The content of the file in the run's folder."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Messages:
        """Read what `text` wrote. Raises `KeyError`."""
        return cls(int(said["sent"]), int(said["answered"]), int(said["failed"]))

    @property
    def sentence(self) -> str:
        """The counts, for people."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.sent} messages sent, {self.answered} answered{failed}"


@dataclass(frozen=True)
class Failure:
    """The `OneflowerError` that ended the ServerApp of a run, as its folder keeps it."""

    message: str
    hint: str

    @property
    def text(self) -> str:
        """The content of the file in the run's folder."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Failure:
        """Read what `text` wrote. Raises `KeyError`."""
        return cls(str(said["message"]), str(said["hint"]))


@dataclass(frozen=True)
class Origin:
    """The run that this one resumes, and the first run of the chain, whose checkpoints they all share."""

    resumes: str
    first: str
    attempt: int = 1

    @property
    def text(self) -> str:
        """The content of the file in the run's folder."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of(cls, folder: Path) -> Origin:
        """Return the origin of the run in a folder. A run that resumes no other is itself the first."""
        try:
            return cls(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))
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
        """Return the id of the run that resumes the one in `folder`, or an empty text."""
        return cls.said(folder, SUCCESSOR)

    @classmethod
    def said(cls, folder: Path, name: str) -> str:
        """Return the content of one of these files in the folder of a run, empty if there is no such file."""
        try:
            return (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def write_choice(folder: Path, choice: SiteChoice) -> None:
    """Write which sites were chosen for the run with a folder."""
    write_atomic(folder / CHOICE, json.dumps(choice.entry) + "\n", SHARED)


def read_choice(folder: Path) -> SiteChoice | None:
    """Return which sites were chosen for the run with a folder, or None if none were. Raises `OneflowerError`."""
    try:
        return SiteChoice.parse(json.loads((folder / CHOICE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise OneflowerError(
            f"It is not known which sites take part in run {folder.name}: {folder / CHOICE} cannot be read.",
            "Start another run.",
            ExitCode.CONFLICT,
        ) from error
