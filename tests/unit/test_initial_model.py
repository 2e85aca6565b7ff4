"""A run that begins with the model of an earlier run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.run_folder import MODEL, RESULT
from oneflower_appliance.training import npz
from oneflower_appliance.training.initial_model import initial_arrays

OWN = ArrayRecord({"w": Array(np.zeros((2, 3), np.float32))})


@pytest.fixture
def runs(tmp_path):
    """The folder of runs, with run 7, whose model is all ones."""
    folder = tmp_path / "7"
    folder.mkdir()
    sha256 = npz.save_record(folder / MODEL, ArrayRecord({"w": Array(np.ones((2, 3), np.float32))}))
    summary = {"rounds": 1, "strategy": "FedAvg", "last": {}, "model": {"sha256": sha256}}
    (folder / RESULT).write_text(json.dumps(summary))
    return tmp_path


def test_the_model_of_the_earlier_run_takes_the_place_of_the_apps_own(runs):
    assert initial_arrays({}, runs, OWN) is initial_arrays({"initial-run": ""}, runs, OWN) is OWN
    found = initial_arrays({"initial-run": "7"}, runs, OWN)
    assert np.array_equal(found["w"].numpy(), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("wrong", ["8", "../7", "/etc", "7/", "7\n", "-1"])
def test_a_run_without_a_model_or_outside_the_folder_is_refused(runs, wrong):
    with pytest.raises(OneflowerError, match="has no model to begin with"):
        initial_arrays({"initial-run": wrong}, runs, OWN)


def test_a_model_that_is_damaged_or_of_another_app_is_refused(runs):
    other = ArrayRecord({"w": Array(np.zeros((3, 3), np.float32))})
    with pytest.raises(OneflowerError, match="has other arrays than this app's"):
        initial_arrays({"initial-run": "7"}, runs, other)
    (runs / "7" / MODEL).write_bytes((runs / "7" / MODEL).read_bytes()[:-1] + b"x")
    with pytest.raises(OneflowerError, match="its file is damaged"):
        initial_arrays({"initial-run": "7"}, runs, OWN)
