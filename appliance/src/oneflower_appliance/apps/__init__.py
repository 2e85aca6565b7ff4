"""The pre-built apps that FL_USE_CASE selects: each folder here is a normal Flower app for `flwr run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class UseCase:
    """A pre-built app: where it is, and the frameworks it can train with in this release."""

    folder: Path
    frameworks: tuple[str, ...]


USE_CASES: dict[str, UseCase] = {
    "image-classification": UseCase(
        Path(__file__).parent / "image-classification", ("sklearn", "pytorch", "tensorflow")
    ),
}
