"""Which framework a pre-built app trains with."""

from __future__ import annotations

import importlib.util

import pytest

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import STRATEGIES
from oneflower_appliance.training.frameworks import framework_name
from oneflower_appliance.use_cases import FRAMEWORKS, TREE_STRATEGIES

from . import federation


def test_the_one_that_is_named_counts_and_otherwise_the_first_that_is_installed():
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(FRAMEWORKS[name].package)]
    assert "sklearn" in installed
    assert framework_name({"framework": ""}, ["sklearn", "tensorflow"]) == "sklearn"
    assert framework_name({"framework": "tensorflow"}, ["sklearn", "tensorflow"]) == "tensorflow"


def test_a_framework_that_the_app_does_not_have_is_refused_with_those_that_it_has():
    with pytest.raises(OneflowerError, match=r"framework 'jax'\.\nThis app trains with pytorch, sklearn") as caught:
        framework_name({"framework": "jax"}, ["pytorch", "sklearn"])
    assert caught.value.code is ExitCode.INVALID_INPUT
    assert framework_name({"framework": "lightning"}, ["pytorch", "sklearn"]) == "pytorch", "which it is built on"
    with pytest.raises(OneflowerError, match="No framework is installed"):
        framework_name({"framework": ""}, [])


def test_each_app_takes_the_module_of_its_framework():
    images, models = (federation.app_module(name, "models") for name in ("image-classification", "anomaly-detection"))
    tables = federation.app_module("anomaly-detection", "autoencoder")
    assert images.framework_of({"framework": "sklearn"}).__name__ == "image_classification.softmax"
    assert tables.framework_of({"framework": "sklearn"}).__name__ == "anomaly_detection.sklearn_model"
    kinds = {name: type(models.detector_of({"framework": "", "strategy": name})).__name__ for name in STRATEGIES}
    assert {name for name, kind in kinds.items() if kind == "Trees"} == set(TREE_STRATEGIES)
    config = {"framework": "pytorch", "model": ""}
    assert [images.model_of(config, (size, size, 3)) for size in (8, 64)] == ["cnn", "resnet18"]
    assert images.model_of(config | {"framework": "sklearn"}, (64, 64, 3)) == "softmax"
