"""Run config arrives at the app as it was typed, through Flower's own parser and messages."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.common.config import parse_config_args
from flwr.common.serde import user_config_from_proto, user_config_to_proto
from hypothesis import given
from hypothesis import strategies as st

from oneflower.cloud import submission
from oneflower.cloud.apps import App
from oneflower.cloud.overrides import read
from oneflower.cloud.runconfig import toml_text, typed
from oneflower_appliance.app_packages import Declaration
from oneflower_appliance.errors import OneflowerError

OWN = {"lr": 0.1, "epochs": 3, "nesterov": False, "text": "hello"}


def through_flower(path):
    """What the app gets: the file as Flower reads it, and back from the message that carries it."""
    return user_config_from_proto(user_config_to_proto(parse_config_args([str(path)])))


keys = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="."), min_size=1)
values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
)


@given(config=st.dictionaries(keys | st.just("optimizer.name"), values))
def test_every_config_goes_through_flowers_parser_unchanged(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_bytes(toml_text(config).encode())
    found = through_flower(path)
    assert found == config
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in config.items()}


@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_a_text_stays_the_text_that_it_is(text):
    assert typed("text", text, "hello") == text


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lr", "1", 1.0), ("lr", "1e-3", 0.001), ("lr", "inf", float("inf")), ("epochs", "-7", -7),
        ("epochs", "1_000", 1000), ("nesterov", "true", True), ("text", "5", "5"), ("text", "true", "true"),
        ("text", 'say "hi" = \\n\nand \'bye\'', 'say "hi" = \\n\nand \'bye\''), ("text", "", ""),
    ],
)  # fmt: skip
def test_a_value_gets_the_type_of_the_apps_own(key, text, value):
    found = typed(key, text, OWN[key])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("lr", "abc", "lr='abc' is not a number"), ("lr", "nan", "not a number"), ("lr", "true", "not a number"),
        ("lr", "", "not a number"), ("epochs", "3.0", "not a whole number"), ("epochs", "true", "not a whole number"),
        ("epochs", "9" * 19, "not a whole number of 64 bits"), ("nesterov", "1", "not true or false"),
        ("nesterov", "yes", "not true or false"), ("text", "\udcff", "not a text in UTF-8"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_the_apps_own(key, text, why):
    with pytest.raises(OneflowerError, match=why) as caught:
        typed(key, text, OWN[key])
    assert "The app's own value is " in caught.value.hint


@pytest.mark.parametrize(
    "texts",
    [
        ["lr=0.5 epochs=0x10"], ["lr=0.5", "epochs=1_0", ""], ["text='a b' nesterov=true"], ['text="tab\\there"'],
        ["optimizer.name='sgd'  lr=1e-3"], ['"optimizer.name"="sgd"'], ["optimizer={name='adam'}"], ["lr=+inf"], [],
        ["epochs=1", "epochs=2"], ['text="" lr=0.5'],
    ],
)  # fmt: skip
def test_what_flwr_run_accepts_means_the_same(texts):
    assert read(texts, OWN | {"optimizer.name": "sgd"}) == parse_config_args(texts)


@pytest.mark.parametrize(
    ("texts", "config"),
    [
        (["text=hello world"], {"text": "hello world"}),
        (["text=5"], {"text": "5"}),
        (["text=x=1 y=2"], {"text": "x=1 y=2"}),
        (["text=5 epochs=3"], {"text": "5", "epochs": 3}),
        (["text=it's"], {"text": "it's"}),
        (["lr=1"], {"lr": 1.0}),
        ({"lr": 1, "epochs": "4", "text": "'x'"}, {"lr": 1.0, "epochs": 4, "text": "'x'"}),
    ],
)
def test_a_text_needs_no_quotes_and_a_value_gets_the_apps_type(texts, config):
    assert [(key, type(value), value) for key, value in read(texts, OWN).items()] == [
        (key, type(value), value) for key, value in config.items()
    ]


def test_files_and_values_follow_each_other_and_the_last_one_counts(tmp_path):
    path = tmp_path / "my config.toml"
    path.write_text("epochs = 7\nlr = 1\n[optimizer]\nname = 'adam'\n")
    own = OWN | {"optimizer.name": "sgd"}
    assert read([str(path)], own) == parse_config_args([str(path)])
    assert read(["lr=0.5 epochs=1", str(path), "lr=2"], own) == {"lr": 2.0, "epochs": 7, "optimizer.name": "adam"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epochs", "neither NAME=VALUE nor a TOML file"), ("=1", "neither NAME=VALUE nor a TOML file"),
        ("speed=1 lr=2", "no configuration called speed"), ("lr=1 speed=2", "no configuration called speed"),
        ("lr=1 more", "lr='1 more' is not a number"), ("epochs='3'", "epochs='3' is not a whole number"),
        ("epochs=1.0", "epochs=1.0 is not a whole"), ("epochs=[1]", r"epochs=\[1\] is not a whole number"),
        ("nesterov=1", "nesterov=1 is not true or false"), ("epochs=true", "epochs=True is not a whole number"),
        ("lr=2026-01-01", "is not a number"), ("gone.toml", "There is no file gone.toml"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_override_is_said(text, why):
    with pytest.raises(OneflowerError, match=why):
        read([text], OWN)


@pytest.mark.parametrize(
    ("content", "why"),
    [("epochs = '3'", "not a whole number"), ("speed = 1", "called speed"), ("epochs 3", "cannot be read as TOML")],
)
def test_a_file_is_checked_as_values_are(tmp_path, content, why):
    (tmp_path / "c.toml").write_text(content)
    with pytest.raises(OneflowerError, match=why):
        read([str(tmp_path / "c.toml")], OWN)


def test_it_is_handed_over_in_a_private_file_and_not_on_the_command_line(tmp_path):
    seen = []

    def flower(*arguments):
        path = Path(arguments[-1])
        seen.append((arguments[:-1], path, stat.S_IMODE(path.stat().st_mode), through_flower(path)))
        return {"run-id": 5}

    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app]")
    app = App("mine", tmp_path, OWN, Declaration("mine", ()), prebuilt=False, components={})
    config = app.run_config({}, None, {"text": 'a "secret" = 1'})
    assert submission.submit(SimpleNamespace(flower=flower), app, config) == "5"
    [(arguments, path, mode, found)] = seen
    assert arguments == ("run", str(tmp_path), "oneflower", "--run-config")
    assert (mode, found) == (0o600, {"text": 'a "secret" = 1'})
    assert not path.exists()
