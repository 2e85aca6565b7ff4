"""What an image is tried with fits what it carries, and a model that is not good enough fails the trial."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.object_ref import validate
from flwr.supercore.task_identity import TaskIdentity

from oneflower.cloud import RunResult, RunRow
from oneflower.images import VARIANTS, ImageSpec
from oneflower.images.app_image import Contents
from oneflower.trial.lessons import lesson_of
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.settings import resolve
from oneflower_appliance.use_cases import USE_CASES

from .federation import Grid


def lesson(variant):
    return lesson_of(Contents(variant, VARIANTS.get(variant, "none"), ImageSpec().flower))


@pytest.mark.parametrize("variant", [*VARIANTS, "edge"])
def test_every_image_is_tried_with_an_app_that_it_has_the_packages_for(variant):
    found = lesson(variant)
    resolve(found.settings)
    if variant in ("none", "edge"):
        project = tomllib.loads(Path(found.app, "pyproject.toml").read_text())["project"]
        assert {name.partition(">")[0] for name in project["dependencies"]} == {"flwr", "numpy"}
    else:
        assert found.settings["ML_FRAMEWORK"] in USE_CASES[found.app].frameworks


def row(**metrics):
    return RunRow.parse(json.dumps({"round": 1, "rounds": 1, "seconds": 1.0, "nodes": 2, "failures": 0, **metrics}))


def test_a_model_that_is_not_good_enough_fails_the_trial():
    digits, words = lesson("sklearn"), lesson("llm")
    good = RunResult("1", "x", (row(server={"accuracy": 0.96}, evaluate={"accuracy": 0.1}),), 1.0)
    assert digits.check(good) == "accuracy 0.960"
    for bad in (
        {"server": {"accuracy": 0.94}},
        {},
        {"evaluate": {"loss": 0.1}},
        {"server": {"accuracy": float("nan")}},
    ):
        with pytest.raises(OneflowerError, match="not good enough"):
            digits.check(RunResult("1", "x", (row(**bad),), 1.0))
    assert words.check(RunResult("1", "x", (row(evaluate={"perplexity": 2.0}),), 1.0)) == "perplexity 2.000"
    with pytest.raises(OneflowerError, match="perplexity 7"):
        words.check(RunResult("1", "x", (row(evaluate={"perplexity": 7.0}),), 1.0))


def test_the_app_for_images_without_a_framework_learns(monkeypatch):
    """Its first model, which knows nothing, is far from what the trial asks for."""
    found = lesson("none")
    spec = importlib.util.spec_from_file_location("separate", Path(found.app, "separate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    results, start = [], FedAvg.start
    monkeypatch.setattr(FedAvg, "start", lambda *args, **kwargs: results.append(start(*args, **kwargs)))
    config = {"num-server-rounds": found.rounds}
    components = tomllib.loads(Path(found.app, "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for reference in components.values():  # Flower looks for them before it submits, in the text of the module
        assert validate(reference, project_dir=found.app) == (True, None)
    module.server(Grid(module.client, config, 2), Context(17, 0, {}, RecordDict(), config))
    (result,) = results
    accuracies = [record["accuracy"] for _, record in sorted(result.evaluate_metrics_clientapp.items())]
    assert len(accuracies) == found.rounds
    assert found.check(RunResult("1", "x", (row(evaluate={"accuracy": accuracies[-1]}),), 1.0))
