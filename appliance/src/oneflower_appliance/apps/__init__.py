"""The pre-built apps that FL_USE_CASE selects: each folder here is a normal Flower app for `flwr run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class UseCase:
    """A pre-built app: where it is, and the frameworks it can train with in this release."""

    folder: Path
    frameworks: tuple[str, ...]


_HERE = Path(__file__).parent
USE_CASES: dict[str, UseCase] = {
    "image-classification": UseCase(_HERE / "image-classification", ("sklearn", "pytorch", "tensorflow")),
    "anomaly-detection": UseCase(_HERE / "anomaly-detection", ("sklearn", "pytorch")),
    "llm-fine-tuning": UseCase(_HERE / "llm-fine-tuning", ("pytorch",)),
}
