"""What an image is tried with: an app for what the image carries, and how good its model must become."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.runtimes.runtime import GPU, NO_FRAMEWORK
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.runs import SOURCES
from oneflower_appliance.use_cases import FRAMEWORKS, USE_CASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud import RunResult
    from oneflower.images.app_image import Contents

_FILES = Path(__file__).parent / "files"
_DATA = "/srv"  # a folder that every image has
_MODEL_MAKER = _FILES / "tiny_language_model.py"


@dataclass(frozen=True)
class Lesson:
    """An app with its rounds and run config, and what its federation is deployed with.

    `prepare` is a Python program that each SuperNode runs first, with `folder` and its partition as arguments.
    """

    app: str
    rounds: int = 3
    config: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    metric: str = "accuracy"
    at_least: float = 0.95
    at_most: float = float("inf")
    prepare: Path | None = None
    folder: str = _DATA

    def check(self, result: RunResult) -> str:
        """Return what the model reached. Raises `OneflowerError` if that is not good enough."""
        measured = result.rows[-1].metrics
        found = next((measured[source].get(self.metric) for source in SOURCES if measured.get(source)), None)
        said = f"{self.metric} {'none' if found is None else f'{found:.3f}'}"
        if found is None or not self.at_least <= found <= self.at_most:
            raise OneflowerError(f"The model of {self.app} is not good enough: {said}.", "See the log of the run.")
        return said


def lesson_of(image: Contents) -> Lesson:
    """Return what an image is tried with."""
    if image.variant.removesuffix(GPU) == "llm":
        tunes_any_model = next(name for name, use_case in USE_CASES.items() if use_case.models is None)
        return Lesson(
            tunes_any_model, 1, {"learning-rate": "0.01", "local-epochs": "10"},
            {"ML_FRAMEWORK": image.framework, "FL_MODEL": f"{_DATA}/model", "FL_DATA_PATH": _DATA},
            metric="perplexity", at_least=1.0, at_most=6.0, prepare=_MODEL_MAKER,
        )  # fmt: skip
    if image.framework == NO_FRAMEWORK:
        return Lesson(str(_FILES / "separate"))
    settings = {"ML_FRAMEWORK": image.framework}
    app = next(name for name, use_case in USE_CASES.items() if image.framework in use_case.frameworks)
    if app == "image-classification":
        return Lesson(app, settings=settings)
    if strategies := FRAMEWORKS[image.framework].strategies:
        settings["FL_STRATEGY"] = strategies[0]
    return Lesson(app, settings=settings, metric="roc_auc", at_least=0.94)
