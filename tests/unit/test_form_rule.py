"""The one rule for which variables of a form apply to a run, in each of the three ways in which a run begins."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from oneflower.cloud.apps import load_app
from oneflower_appliance.agent.run_keeper import RunKeeper
from oneflower_appliance.parameter import Level
from oneflower_appliance.settings import resolve, run_config_keys
from oneflower_appliance.training import supervised_run, supervisor
from oneflower_appliance.training.strategies import make_strategy

FORM = {"FL_NUM_ROUNDS": "7", "FL_STRATEGY": "FedYogi", "FL_SERVER_LR": "0.3", "ML_FRAMEWORK": "sklearn"}


def started_by_the_form(tmp_path):
    """Return the run config that a SuperLink's agent starts the use case of a form with."""
    started = []
    api = SimpleNamespace(
        runs=list, nodes_online=lambda: 2, start=lambda use_case, config: started.append((use_case, config)) or "1"
    )
    gate = SimpleNamespace(
        attributes=lambda _: {"READY": "YES", "FL_USE_CASE": "image-classification", "ML_FRAMEWORK": "sklearn"}
    )
    form = {name: value for name, value in FORM.items() if name != "ML_FRAMEWORK"}
    RunKeeper(api, resolve(form, (Level.SERVICE, Level.SUPERLINK)), tmp_path).look(gate, [1, 2])
    [(use_case, config)] = started
    assert use_case == "image-classification"
    return config


def test_up_with_a_form_and_oneflower_run_give_a_prebuilt_app_the_same_run_config(tmp_path):
    form = resolve(FORM)
    by_run = load_app("image-classification", form).run_config(form, None, {})
    assert started_by_the_form(tmp_path) == by_run
    assert (by_run["num-server-rounds"], by_run["strategy"], by_run["server-lr"]) == (7, "FedYogi", 0.3)
    assert set(run_config_keys(form).values()) == set(by_run), "every variable that has a key applies"


def test_oneflower_run_passes_an_app_of_ones_own_nothing_of_the_form(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\n[tool.flwr.app.components]\nserverapp = "a:app"\nclientapp = "b:app"\n'
        '[tool.flwr.app.config]\nnum-server-rounds = 2\nstrategy = "FedAvg"\n'
    )
    app = load_app(str(tmp_path), FORM)
    assert app.run_config(resolve(FORM), None, {}) == {}
    assert app.run_config(resolve(FORM), 4, {"strategy": "FedProx"}) == {"num-server-rounds": 4, "strategy": "FedProx"}


@pytest.fixture
def flwr_run(tmp_path, monkeypatch):
    """Return a way to have plain `flwr run` start a strategy: what it then is, and which line is logged."""
    lines, ran = [], []
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps({k: v for k, v in FORM.items() if k != "ML_FRAMEWORK"}))
    monkeypatch.setattr(supervised_run.log, "warning", lambda text, *values: lines.append(text % values))

    def stock(self, grid, initial_arrays, num_rounds=3, timeout=3600.0, **_):
        ran.append((type(self).__name__, num_rounds))
        return SimpleNamespace(
            arrays=initial_arrays, train_metrics_clientapp={}, evaluate_metrics_clientapp={}, evaluate_metrics_serverapp={}
        )  # fmt: skip

    monkeypatch.setattr(Strategy, "start", stock)
    supervisor.supervise(tmp_path / "runs", tmp_path / "checkpoints")

    def start(strategy, overrides=None, **chosen):
        grid = SimpleNamespace(run=SimpleNamespace(run_id=17, override_config=overrides or {}))
        strategy.start(grid, ArrayRecord({"weights": Array(np.zeros(2))}), **chosen)
        return ran.pop(), "".join(lines)

    return start


def test_by_flwr_run_rounds_and_strategy_apply_alike_where_the_app_leaves_them_open(flwr_run):
    assert flwr_run(make_strategy({})) == (("FedYogi", 7), "")


def test_by_flwr_run_neither_applies_where_the_app_chooses_itself_and_a_line_says_so(flwr_run):
    own = {"strategy": "FedAvg", "server-lr": 0.1}
    ran, line = flwr_run(make_strategy(own), num_rounds=2)
    assert ran == ("FedAvg", 2)
    assert line.startswith(
        "Of the form, FL_NUM_ROUNDS=7, FL_STRATEGY=FedYogi, FL_SERVER_LR=0.3 do not count in this run"
    )
    assert flwr_run(FedAvg(), num_rounds=2)[0] == ("FedAvg", 2)


def test_what_a_run_is_given_goes_before_the_form(flwr_run):
    assert flwr_run(make_strategy({"strategy": "FedMedian"}), {"num-server-rounds": 5})[0] == ("FedMedian", 5)
