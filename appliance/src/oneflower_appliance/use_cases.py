"""The use cases and the machine-learning frameworks, each declared once.

A new use case is a folder in `apps/` and an entry here; a new framework is an entry here and its locks in the runtimes.
The form, its checks, the client, the runtimes and warm execution read these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Framework:
    """A framework. `packages` is what a runtime installs for it, and `imports` is imported before the first task.

    One `on_demand` is imported only after a task has imported it itself: the digits are trained without it.

    A `threaded` framework starts threads when it is imported, so a fork of a process that has imported it hangs.
    Pre-built apps train it with one of `strategies` only, if it has its own. If it is built on another one, its `base`,
    they train with that. `memory` and `disk` are what a machine with it needs, in megabytes. One that is `x86_only` has
    wheels for no other processor.
    """

    title: str
    packages: tuple[str, ...]
    imports: tuple[str, ...]
    on_demand: bool = False
    threaded: bool = False
    strategies: tuple[str, ...] = ()
    base: str = ""
    memory: int = 2048
    disk: int = 8192
    x86_only: bool = False

    @property
    def package(self) -> str:
        """The package that is installed where the framework is."""
        return self.imports[0].partition(".")[0]

    @property
    def is_pytorch(self) -> bool:
        """Whether pre-built apps train on PyTorch with it."""
        return "torch" in self.packages


@dataclass(frozen=True)
class UseCase:
    """A pre-built app.

    `folder` is a normal Flower app for `flwr run`. It trains with each of `frameworks`; the first is the default.
    FL_MODEL chooses one of `models`, or is any name or path if `models` is None. `personal` says that nodes can have
    models, or layers, of their own.
    """

    folder: Path
    frameworks: tuple[str, ...]
    models: tuple[str, ...] | None
    personal: bool = False


BATCH_NORM = "cnn-bn"  # the model that has batch normalisation; with PyTorch only
TREE_STRATEGIES = ("FedXgbBagging", "FedXgbCyclic")  # they combine trees, not weights
_USUAL = ("scikit-learn", "pillow", "pyarrow")

FRAMEWORKS = {
    "sklearn": Framework(
        "scikit-learn",
        _USUAL,
        ("sklearn.linear_model", "sklearn.neural_network", "sklearn.datasets", "sklearn.metrics"),
        on_demand=True,
    ),
    "pytorch": Framework(
        "PyTorch",
        (*_USUAL, "torch", "transformers", "peft"),
        ("torch", "torch.utils.data", "torchvision", "sklearn.datasets", "sklearn.metrics"),
        memory=4096,
        disk=16384,
    ),
    "tensorflow": Framework(
        "TensorFlow",
        (*_USUAL, "tensorflow-cpu"),
        ("tensorflow", "sklearn.datasets", "sklearn.metrics"),
        threaded=True,
        memory=4096,
        disk=16384,
        x86_only=True,
    ),
    "lightning": Framework(
        "PyTorch Lightning",
        (*_USUAL, "torch", "lightning"),
        ("lightning.pytorch", "torch.utils.data", "sklearn.datasets", "sklearn.metrics"),
        base="pytorch",
        memory=4096,
        disk=16384,
    ),
    "monai": Framework(
        "MONAI",
        (*_USUAL, "torch", "monai"),
        ("monai", "monai.networks.nets", "torch.utils.data", "sklearn.datasets", "sklearn.metrics"),
        base="pytorch",
        memory=4096,
        disk=16384,
    ),
    "jax": Framework("JAX", (*_USUAL, "jax"), ("jax.numpy", "sklearn.datasets", "sklearn.metrics")),
    "xgboost": Framework(
        "XGBoost",
        (*_USUAL, "xgboost-cpu"),
        ("xgboost", "sklearn.datasets", "sklearn.metrics"),
        strategies=TREE_STRATEGIES,
    ),
    "lightgbm": Framework(
        "LightGBM",
        (*_USUAL, "lightgbm"),
        ("lightgbm", "sklearn.datasets", "sklearn.metrics"),
        strategies=("FedXgbCyclic",),
    ),
}

# What ServerApps may import to test a model: a second of CPU time. Imported ahead after one has done so.
SERVERAPP_IMPORTS = ("sklearn.datasets", "sklearn.model_selection")

NO_USE_CASE = "none"
_PUBLISHER = "oneflower"
_APPS = Path(__file__).parent / "apps"

USE_CASES = {
    "image-classification": UseCase(
        _APPS / "image-classification",
        ("sklearn", "pytorch", "tensorflow", "lightning", "monai"),
        ("cnn", BATCH_NORM, "resnet18"),
        personal=True,
    ),
    "anomaly-detection": UseCase(
        _APPS / "anomaly-detection", ("sklearn", "pytorch", "lightning", "monai", "jax", "xgboost", "lightgbm"), ()
    ),
    "llm-fine-tuning": UseCase(_APPS / "llm-fine-tuning", ("pytorch",), None),
}


def publisher_name(use_case: str) -> str:
    """Return Flower's name for the app of a use case: publisher and name."""
    return f"{_PUBLISHER}/{use_case}"


def impersonal(use_case: str) -> str:
    """Return that the nodes of a use case can have no models of their own, and which can; or an empty text."""
    if use_case == NO_USE_CASE or USE_CASES[use_case].personal:
        return ""
    able = ", ".join(name for name, found in USE_CASES.items() if found.personal)
    return f"{use_case} has no personal models; {able} has."


def frameworks_of(use_case: str) -> tuple[str, ...]:
    """Return the frameworks that a value of FL_USE_CASE supports."""
    return tuple(FRAMEWORKS) if use_case == NO_USE_CASE else USE_CASES[use_case].frameworks
