from __future__ import annotations

import pytest

from oneflower.cloud.apps import load_app
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.runs import RunRow
from oneflower_appliance.use_cases import USE_CASES

FORM = {
    "FL_NUM_ROUNDS": "5",
    "FL_MIN_FIT_CLIENTS": "2",
    "FL_MIN_EVALUATE_CLIENTS": "2",
    "FL_MIN_AVAILABLE_CLIENTS": "3",
}


def folder(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    return str(tmp_path)


GOOD = """
[project]
name = "mine"
dependencies = ["flwr>=1.41", "Some_Package[extra]>=1; python_version>'3'"]
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
[tool.flwr.app.config]
num-server-rounds = 9
optimizer.name = "sgd"
"""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("server.py", "fl.server.start_server(config=c)", "server.py calls start_server.*into a server_fn"),
        ("client.py", "fl.client.start_numpy_client(client=C())", "client.py calls start_numpy_client"),
        ("notes.py", "restart_server_soon()", "it has no pyproject.toml\\."),
        (
            "pyproject.toml",
            '[tool.flwr.components]\nserverapp = "s:app"\n',
            r"rename its table \[tool.flwr.components\]",
        ),
        ("pyproject.toml", '[flower.components]\nserverapp = "s:app"\n', r"rename its table \[flower.components\]"),
    ],
)
def test_what_was_written_before_there_were_apps_is_told_what_to_change(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(OneflowerError, match=told):
        load_app(str(tmp_path), {})


def test_a_prebuilt_app_follows_the_form_of_its_federation():
    app = load_app("image-classification", FORM)
    config = app.run_config(FORM, None, {})
    assert config == {
        "num-server-rounds": 5, "min-train-nodes": 2, "min-evaluate-nodes": 2, "min-available-nodes": 3,
    }  # fmt: skip
    assert app.run_config(FORM, 2, {"dirichlet-alpha": "0.3"})["num-server-rounds"] == 2


@pytest.mark.parametrize("name", USE_CASES)
def test_the_form_fits_the_config_of_every_prebuilt_app(name):
    form = {name: parameter.default for name, parameter in PARAMETERS.items() if parameter.key}
    form["ML_FRAMEWORK"] = USE_CASES[name].frameworks[0]
    assert load_app(name, form).run_config(form, None, {})


def test_a_strategy_that_the_framework_does_not_have_is_refused_before_anything_is_sent():
    form = {"FL_STRATEGY": "FedAvg", "ML_FRAMEWORK": "xgboost"}
    app = load_app("anomaly-detection", form)
    with pytest.raises(OneflowerError, match="is 'FedAvg'; xgboost needs one of FedXgbBagging, FedXgbCyclic"):
        app.run_config(form, None, {})
    assert app.run_config(form, None, {"strategy": "FedXgbCyclic"})["framework"] == "xgboost"


def test_a_precision_that_the_framework_does_not_have_is_refused_before_anything_is_sent():
    form = {"FL_MIXED_PRECISION": "bf16", "ML_FRAMEWORK": "sklearn"}
    app = load_app("image-classification", form)
    with pytest.raises(OneflowerError, match="is 'bf16'; sklearn trains in full precision"):
        app.run_config(form, None, {})
    assert app.run_config(form, None, {"mixed-precision": "no"})["mixed-precision"] == "no"
    form["ML_FRAMEWORK"] = "pytorch"
    assert app.run_config(form, None, {})["mixed-precision"] == "bf16"


def test_anybodys_app_is_changed_only_where_asked(tmp_path):
    app = load_app(folder(tmp_path, GOOD), FORM)
    assert app.run_config(FORM, None, {}) == {}
    assert app.run_config(FORM, 4, {"optimizer.name": "adam w"}) == {
        "num-server-rounds": 4, "optimizer.name": "adam w",
    }  # fmt: skip
    with pytest.raises(OneflowerError, match="num-server-rounds='many' is not a whole number"):
        app.run_config(FORM, None, {"num-server-rounds": "many"})
    with pytest.raises(OneflowerError, match="no configuration called speed"):
        app.run_config(FORM, None, {"speed": "1"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not toml [", "cannot be read"),
        ("[project]\nname='x'\n", "names no serverapp"),
        (GOOD.replace("clientapp =", "client ="), "names no clientapp"),
        (GOOD.replace("mine.server:app", "../../etc/passwd"), "names no serverapp"),
        (GOOD.replace("flwr>=1.41", "flwr>>1"), "the dependency 'flwr>>1' is not valid"),
    ],
)
def test_a_folder_that_is_no_flower_app(tmp_path, text, why):
    with pytest.raises(OneflowerError, match=why):
        load_app(folder(tmp_path, text), FORM)


def test_no_folder_no_pyproject_no_app(tmp_path):
    with pytest.raises(OneflowerError, match="has no pyproject"):
        load_app(str(tmp_path), FORM)
    with pytest.raises(OneflowerError, match="neither a folder nor a bundle") as caught:
        load_app("chess", FORM)
    assert caught.value.code is ExitCode.NOT_FOUND


def test_a_prebuilt_app_refuses_a_framework_that_it_does_not_train_with():
    with pytest.raises(OneflowerError, match="cannot train with ML_FRAMEWORK=jax; it can with sklearn"):
        load_app("image-classification", FORM | {"ML_FRAMEWORK": "jax"})


def test_a_prebuilt_app_knows_every_key_of_the_form():
    from oneflower_appliance.parameters import PARAMETERS
    from oneflower_appliance.use_cases import USE_CASES

    wanted = {parameter.key: parameter.default for parameter in PARAMETERS.values() if parameter.key}
    for name in USE_CASES:
        config = load_app(name, FORM).config
        assert set(wanted) <= set(config), name
        for key in set(wanted) - {"framework"}:
            assert str(config[key]) == wanted[key], (name, key)


def test_loss_and_accuracy_are_found_whatever_an_app_calls_them():
    def row(**sources):
        import json

        return RunRow.parse(json.dumps({"round": 1, "rounds": 3, "seconds": 1, "nodes": 2, "failures": 0, **sources}))

    mixed = row(train={"train_loss": 3.0}, evaluate={"eval-acc": 0.5, "eval_loss": 2.0}, server={"loss": 1.0})
    assert (mixed.loss, mixed.accuracy) == (1.0, 0.5)
    trained = row(train={"train_loss": 3.0})
    assert (trained.loss, trained.train_loss, row(train={}).accuracy) == (None, 3.0, None)
    assert row(train={"lossless": 1}, evaluate=None).loss is None
