"""The folder that an app works in, and what of it others may see."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.supernode.runtime import run_clientapp

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals, workplace
from oneflower_appliance.flower.workplace import (
    clientapp_is_installed_once,
    clientapp_works_in,
    serverapp_works_in,
    tell_without_traceback,
)
from oneflower_appliance.orders import SERVER_DATA_VARIABLE
from oneflower_appliance.run_folder import FAILURE


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("flwr")
    before = list(log.filters)
    yield
    log.filters[:] = before


def test_the_round_of_a_message_is_the_one_that_its_strategy_names():
    def asked(group_id="", **config):
        content = RecordDict({"config": ConfigRecord(config)})
        return SimpleNamespace(has_content=lambda: True, content=content, metadata=SimpleNamespace(group_id=group_id))

    assert [
        workplace._round_of(message)
        for message in (asked(**{"server-round": 3}), asked(group_id="4"), asked(group_id="a"), asked(), None)
    ] == ["3", "4", "", "", ""]


def test_a_clientapp_works_in_its_runs_folder_and_only_the_last_runs_are_kept(monkeypatch, tmp_path):
    runs, before = tmp_path / "runs", set(os.environ)
    number = [0]
    data = tmp_path / "data"
    (data / "acme" / "flowers").mkdir(parents=True)
    (data / "acme" / "flowers" / "train.csv").write_text("x\n1\n")
    context = SimpleNamespace(node_config={"data-path": str(data)})
    monkeypatch.setattr(
        run_clientapp, "pull_task_input", lambda: (None, context, SimpleNamespace(run_id=number[0]), None)
    )
    clientapp_works_in(runs)
    clock = iter(range(1, 100))
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path: utime(path, (next(clock),) * 2))
    for number[0] in [*range(12), 4, 12]:
        run_clientapp.pull_task_input()
        assert os.getcwd() == str(runs / str(number[0]) / "files")
        (runs / str(number[0]) / "files" / "state").write_text(str(number[0]))
        assert Path("acme/flowers/train.csv").read_text() == "x\n1\n"
    assert sorted(int(path.name) for path in runs.iterdir()) == [4, 6, 7, 8, 9, 10, 11, 12]
    assert (runs / "4" / "files").stat().st_mode & 0o077 == 0
    assert (data / "acme" / "flowers" / "train.csv").exists(), "the folder of a run is removed, the data are not"
    assert not any(name.startswith("HF_") for name in set(os.environ) - before)


def test_an_app_is_unpacked_for_the_first_task_of_its_run(monkeypatch, tmp_path):
    unpacked = []

    def install(fab, *, skip_prompt):
        assert skip_prompt
        unpacked.append(fab)
        place = tmp_path / "apps" / fab.decode()
        place.mkdir(parents=True, exist_ok=True)
        return place

    monkeypatch.setattr(run_clientapp, "install_from_fab", install)
    clientapp_is_installed_once()

    def task(run, fab):
        folder = tmp_path / "runs" / run / "files"
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return run_clientapp.install_from_fab(fab, skip_prompt=True)

    assert [task("1", b"a"), task("1", b"a"), task("2", b"a")] == [tmp_path / "apps" / "a"] * 3
    assert unpacked == [b"a", b"a"], "once for each run"
    assert task("1", b"b").name == "b"
    (tmp_path / "apps" / "b").rmdir()
    task("1", b"b")
    assert unpacked[2:] == [b"b", b"b"], "another app, and one that was removed"
    (tmp_path / "runs" / "1" / "installed").write_text("x")
    task("1", b"b")
    assert len(unpacked) == 5


def test_a_serverapp_finds_the_data_of_its_superlink_which_are_no_result(monkeypatch, tmp_path):
    data, runs = tmp_path / "data", tmp_path / "runs"
    (data / "acme" / "flowers").mkdir(parents=True)
    (data / "acme" / "flowers" / "test.csv").write_text("x\n1\n")
    grid, task = SimpleNamespace(set_run=lambda *_: None), SimpleNamespace(run_=lambda *_: None)
    monkeypatch.setattr(internals, "grid_class", lambda: grid)
    monkeypatch.setattr(internals, "serverapp_task", lambda: task)
    monkeypatch.setenv(SERVER_DATA_VARIABLE, str(data))
    serverapp_works_in(runs)
    grid.set_run(None, SimpleNamespace(run_id=17))
    assert Path("acme/flowers/test.csv").read_text() == "x\n1\n"
    assert not Path("acme/flowers/test.csv").resolve().is_relative_to(runs), "our API serves what is in the folder"


@pytest.mark.parametrize(
    ("code", "module", "told"),
    [
        (3, "app", "The ServerApp ended itself with exit status 3."),
        (None, "app", "The ServerApp ended itself with exit status 0."),
        ("no data", "app", "The ServerApp ended itself: no data."),
        (0, "flwr.supercore.exit", ""),  # Flower, because somebody stopped the run
    ],
)
def test_a_serverapp_that_ends_itself_has_failed_and_is_not_lost(monkeypatch, tmp_path, code, module, told):
    def leave(code=code):
        raise SystemExit(code)

    app = FunctionType(leave.__code__, {"__name__": module}, argdefs=(code,))
    grid, task = SimpleNamespace(set_run=lambda *_: None), SimpleNamespace(run_=app)
    monkeypatch.setattr(internals, "grid_class", lambda: grid)
    monkeypatch.setattr(internals, "serverapp_task", lambda: task)
    serverapp_works_in(tmp_path)
    grid.set_run(None, SimpleNamespace(run_id=17))
    with pytest.raises(OneflowerError if told else SystemExit) as caught:
        task.run_()
    assert getattr(caught.value, "message", "") == told
    assert (tmp_path / "17" / FAILURE).exists() == bool(told)


def test_an_error_of_oneflowers_own_is_logged_without_a_traceback(caplog):
    tell_without_traceback()
    log = logging.getLogger("flwr")
    for error in (OneflowerError("No data.", "Put some there."), ValueError("deep")):
        log.error("%s raised an exception", "ServerApp", exc_info=error)
    assert "ServerApp raised an exception: No data." in caplog.text
    assert "OneflowerError" not in caplog.text
    assert "ValueError: deep" in caplog.text
