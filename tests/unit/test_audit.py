"""The audit log: its chain, what it notices, and what is recorded of an action on either side."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.cloud import audit as operators
from oneflower.cloud.audit import audited, read_own
from oneflower.cloud.credentials import Endpoints
from oneflower_appliance import audit
from oneflower_appliance.agent.answers import answer
from oneflower_appliance.audit import DONE, FOLDER, AuditLog, Head, verify
from oneflower_appliance.errors import ExitCode, OneflowerError


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit")


def write(log, count):
    for number in range(count):
        log.write("scale", DONE, federation="lab", supernodes=str(number))


def checked(log):
    return verify(log.read())


def test_entries_follow_each_other_and_are_private(log, tmp_path):
    write(log, 3)
    found = checked(log)
    assert (found.broken, [entry["n"] for entry in found.entries]) == ("", [1, 2, 3])
    assert found.head == log.read().head
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "audit").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert checked(AuditLog(tmp_path / "nothing")).entries == ()


def changed(lines):
    return [lines[0], lines[1].replace('"1"', '"9"'), *lines[2:]]


ATTACKS = {
    "changed": (changed, "Line 3: entry 3 does not fit entry 2, which was changed."),
    "left out": (lambda lines: [*lines[:2], *lines[3:]], "Line 3: entry 4 follows entry 2."),
    "inserted": (lambda lines: [*lines[:2], lines[1], *lines[2:]], "Line 3: entry 2 follows entry 2."),
    "moved": (lambda lines: [lines[1], lines[0], *lines[2:]], "Line 2: entry 1 follows entry 2."),
    "no entry": (lambda lines: [*lines[:2], "x", *lines[3:]], "Line 3 is not an entry."),
    "cut at the end": (lambda lines: lines[:3], "there was an entry 5, and the last one is 3."),
    "all gone": (lambda _lines: [], "there was an entry 5, and the last one is 0."),
    "the last one changed": (lambda lines: [*lines[:4], lines[4].replace("done", "none")], "Entry 5 was changed."),
    "another beginning": (
        lambda lines: [lines[0].replace("0" * 64, "1" * 64), *lines[1:]], "Line 1: the first entry follows another one."
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_changes_a_record_is_noticed(log, tmp_path, attack):
    write(log, 5)
    change, said = ATTACKS[attack]
    path = tmp_path / "audit" / "audit.jsonl"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    assert said in checked(log).broken
    log.write("scale", DONE)
    assert checked(log).broken, "also after another entry"


def test_a_head_that_somebody_else_remembers_shows_a_chain_written_anew(log, tmp_path):
    write(log, 4)
    remembered = log.read().head
    for file in (tmp_path / "audit").iterdir():
        file.unlink()
    write(log, 6)
    assert checked(log).broken == "", "nothing on this machine tells"
    assert verify(log.read(), [remembered]).broken == "Entry 4 was changed."
    assert Head.parse(str(remembered)) == remembered
    with pytest.raises(ValueError, match="is not the number and hash"):
        Head.parse("4:abc")


def test_what_a_power_cut_left_unfinished_is_dropped(log, tmp_path):
    write(log, 2)
    with (tmp_path / "audit" / "audit.jsonl").open("a") as stream:
        stream.write('{"n": 3, "time"')
    write(log, 1)
    assert (checked(log).broken, len(checked(log).entries)) == ("", 3)


def test_files_are_kept_to_a_number_and_the_chain_goes_through_them(log, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "_LARGEST", 600)
    monkeypatch.setattr(audit, "_KEPT", 3)
    write(log, 25)
    found = checked(log)
    first = found.entries[0]["n"]
    assert first > 1
    assert (found.broken, found.note) == ("", f"Entries before {first} are no longer kept.")
    files = sorted(file.name for file in (tmp_path / "audit").glob("*.jsonl"))
    assert (len(files), files[0]) == (4, f"audit-{first:08}.jsonl")
    (tmp_path / "audit" / files[1]).unlink()
    assert "follows entry" in checked(log).broken


def _write_many(folder):
    write(AuditLog(folder), 20)


def test_processes_that_write_at_once_make_one_chain(log, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path / "audit",)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    found = checked(log)
    assert (found.broken, len(found.entries), [writer.exitcode for writer in writers]) == ("", 80, [0] * 4)


@pytest.fixture
def cloud(tmp_path):
    said = []
    surroundings = SimpleNamespace(audit=lambda: tmp_path / "audit")
    endpoints = Endpoints("http://one:2474", "http://one:2633/RPC2", "alice:secret")
    return SimpleNamespace(surroundings=surroundings, endpoints=endpoints, tell=said.append, said=said)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (OneflowerError("Taken.", code=ExitCode.CONFLICT), "refused"),
        (OneflowerError("Lost.", code=ExitCode.RUN_FAILED), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_an_action_is_recorded_before_it_and_with_its_outcome(cloud, error, outcome):
    def act():
        with audited(cloud, "run", "lab", service="7") as told:
            assert [entry["outcome"] for entry in read_own(cloud).entries] == ["begun"]
            told.update(run="5", app_hash="abc")
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            act()
    else:
        act()
    begun, ended = read_own(cloud).entries
    assert (ended["outcome"], ended["run"], ended["app_hash"], ended["cloud_user"]) == (outcome, "5", "abc", "alice")
    assert ended["by"] == operators.person()
    assert ended.get("why", "") == getattr(error, "message", "")
    assert "secret" not in json.dumps([begun, ended])


def test_what_cannot_be_recorded_is_not_done_unless_it_removes_something(cloud, tmp_path):
    (tmp_path / "audit").write_text("in the way")
    with (
        pytest.raises(OneflowerError, match="Nothing was done, because it cannot be recorded"),
        audited(cloud, "run", "lab"),
    ):
        raise AssertionError("it was done")
    with audited(cloud, "remove", "lab", hindered=False):
        assert cloud.said[0].startswith("This is not recorded: ")
    assert cloud.said[1].startswith("That this is done is not recorded: ")


def test_the_command_shows_verifies_and_exits_with_its_own_code(cloud, tmp_path, monkeypatch):
    monkeypatch.setattr("oneflower.cli.session.Session.cloud", lambda: cloud)
    for federation in ("lab", "den"):
        with audited(cloud, "scale", federation):
            pass
    shown = CliRunner().invoke(app, ["audit", "--since", "1h"])
    assert shown.exit_code == 0, shown.output
    assert "The audit log of the operator is whole: 4 entries. Last: 4:" in shown.output
    assert (
        json.loads(CliRunner().invoke(app, ["audit", "--since", "2999-01-01", "-o", "json"]).stdout)["operator"][
            "entries"
        ]
        == []
    )
    path = tmp_path / "audit" / "audit.jsonl"
    path.write_text(path.read_text().replace("den", "lab"))
    done = CliRunner().invoke(app, ["audit"])
    assert isinstance(done.exception, OneflowerError)
    assert done.exception.code is ExitCode.TAMPERED
    assert "Line 4: entry 4 does not fit entry 3, which was changed." in done.exception.message


def test_a_superlinks_log_that_was_not_checked_is_no_success(cloud, monkeypatch):
    silent = OneflowerError("It does not answer.", "", ExitCode.CONFLICT)
    federation = SimpleNamespace(name="lab", audit=Mock(side_effect=[silent, None]))
    monkeypatch.setattr("oneflower.cli.session.Session.cloud", lambda: cloud)
    monkeypatch.setattr("oneflower.cloud.Federation.find", lambda *_: federation)
    done = CliRunner().invoke(app, ["audit", "lab"])
    assert (done.exception.code, done.exception.message) == (
        ExitCode.CONFLICT, "Its SuperLink's audit log cannot be fetched. It does not answer."
    )  # fmt: skip
    assert "keeps no audit log" in CliRunner().invoke(app, ["audit", "lab"]).output
    gone = OneflowerError("There is none.", "", ExitCode.NOT_FOUND)
    monkeypatch.setattr("oneflower.cloud.Federation.find", Mock(side_effect=gone))
    assert CliRunner().invoke(app, ["audit", "lab"]).exception is gone
    with audited(cloud, "remove", "lab", hindered=False):
        pass
    assert "went with it" in CliRunner().invoke(app, ["audit", "lab"]).output


def test_the_last_entry_of_a_superlink_is_remembered_and_must_be_there_the_next_time(cloud, tmp_path, monkeypatch):
    theirs = AuditLog(tmp_path / "superlink")

    class Reached:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return SimpleNamespace(json=lambda _path: theirs.read().entry)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(operators.superlink, "reach", Reached)
    status = SimpleNamespace(id=7, name="lab")

    def look():
        return operators.read_superlinks(cloud, status, read_own(cloud))

    write(theirs, 3)
    assert look().broken == ""
    assert look().broken == ""
    assert [entry["action"] for entry in read_own(cloud).entries] == ["audit.see"], "once"
    for file in (tmp_path / "superlink").iterdir():
        os.unlink(file)
    write(theirs, 2)
    assert "there was an entry 3, and the last one is 2" in look().broken


def test_a_machine_prints_its_own_log_and_says_whether_it_is_whole(tmp_path, capsys):
    AuditLog(tmp_path / FOLDER).write("policy.refuse", "refused", run="5", why="it is not signed")
    asked = SimpleNamespace(command="audit", home=tmp_path, json=False)
    assert answer(asked) == ExitCode.OK
    assert "it is not signed" in capsys.readouterr().out
    log = tmp_path / FOLDER / "audit.jsonl"
    log.write_text(log.read_text().replace("not signed", "signed"))
    assert answer(asked) == ExitCode.TAMPERED
    assert "was changed" in capsys.readouterr().err
