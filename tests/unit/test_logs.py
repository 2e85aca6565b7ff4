"""What `oneflower logs` selects, and how it follows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from oneflower import moments
from oneflower.cloud import logs
from oneflower.cloud.logs import LogLine, Wanted, follow_logs, read_logs
from oneflower.local.console import Console
from oneflower_appliance.errors import ExitCode, OneflowerError

NOON = 1_800_000_000
OLD = '{"time": "2027-01-15T07:00:00.000Z", "level": "INFO", "source": "flwr", "message": "old", "run": "1"}'
NEW = '{"time": "2027-01-15T08:00:01.000Z", "level": "INFO", "source": "flwr", "message": "new", "run": "2"}'
TEXT = "2027-01-15T08:00:02.000Z ERROR   agent: it failed"


class Machine(SimpleNamespace):
    """A SuperNode's machine, as a status has it."""

    def __init__(self, number):
        super().__init__(id=number, name=f"supernode_{number}", node_id=f"77{number}", ip="", ready=True)
        self.error = self.waits = self.state = ""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A service whose machines have consoles in `tmp_path`."""
    body = {"log": [{"timestamp": NOON - 60, "message": "deployed"}, {"timestamp": NOON, "message": "running"}]}
    status = SimpleNamespace(name="lab", settings={"FL_LOG_FORMAT": "json"}, vms=(Machine(0), Machine(1)))
    run = SimpleNamespace(
        json=lambda path: {"text": "INFO :  of the ServerApp\n"} if path.startswith("/runs/2/") else None
    )

    class Reached:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return run

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(logs.superlink, "reach", Reached)
    found = SimpleNamespace(tail=lambda vm: Console(tmp_path / str(vm)), journal=lambda ip: ip)
    return SimpleNamespace(
        body=lambda: body, find_body=lambda: body, status=lambda _body: status, cloud=SimpleNamespace(surroundings=found),
        now=status, document=body,
    )  # fmt: skip


def test_lines_are_chosen_by_machine_time_and_run(service, tmp_path):
    (tmp_path / "0").write_text(f"{OLD}\n  and more of it\n{NEW}\n{TEXT}\nTraceback\n")
    (tmp_path / "1").write_text(f"{OLD}\n")
    assert [str(line) for line in read_logs(service, Wanted(vm="770")).records()][-2:] == [
        f"supernode_0 | {TEXT}", "supernode_0 | Traceback",
    ]  # fmt: skip
    since = read_logs(service, Wanted(lines=None, since=NOON))
    assert since.service == ("running",)
    assert since.consoles == {"supernode_0": [NEW, TEXT, "Traceback"], "supernode_1": []}
    assert read_logs(service, Wanted(lines=None, run="2")).consoles == {"supernode_0": [NEW], "supernode_1": []}
    assert read_logs(service, Wanted(lines=1)).consoles["supernode_0"] == ["Traceback"]
    assert LogLine.of("x", NEW).record == {"machine": "x", **json.loads(NEW)}
    for wanted in (Wanted(vm="nobody"), Wanted(run="3")):
        with pytest.raises(OneflowerError) as error:
            read_logs(service, wanted)
        assert error.value.code is ExitCode.NOT_FOUND


def test_lines_of_a_run_come_from_its_superlink_where_no_line_names_its_run(service):
    service.now.settings["FL_LOG_FORMAT"] = "text"
    assert read_logs(service, Wanted(run="2")).lines(consoles_only=True) == ["run 2 | INFO :  of the ServerApp"]
    for run in ("3", "last"):
        with pytest.raises(OneflowerError, match=f"no line of a run '{run}'"):
            read_logs(service, Wanted(run=run))


def test_new_lines_and_machines_are_followed_until_the_service_is_gone(service, tmp_path):
    (tmp_path / "0").write_text(f"{OLD}\n")
    looks = []

    def write(text):
        with (tmp_path / "0").open("a") as console:
            console.write(text)

    def wait(_seconds):
        looks.append(1)
        if len(looks) == 1:
            write(f"{NEW}\nhalf a li")
        elif len(looks) == 2:
            write("ne\n")
            service.now.vms = (*service.now.vms, Machine(2))
            (tmp_path / "2").write_text(f"{TEXT}\n")
            service.document["log"] = [*service.document["log"][1:], {"timestamp": NOON, "message": "scaled"}]
        elif len(looks) == 5:
            service.find_body = lambda: None

    told = [(line.source, line.text) for line in follow_logs(service, Wanted(), wait)]
    assert told == [
        ("service", "deployed"), ("service", "running"), ("supernode_0", "ready"), ("supernode_0", OLD),
        ("supernode_1", "ready"), ("supernode_0", NEW), ("supernode_0", "half a line"), ("service", "scaled"),
        ("supernode_2", "ready"), ("supernode_2", TEXT), ("service", "The federation is gone."),
    ]  # fmt: skip


def test_a_console_is_followed_over_its_being_moved_aside(tmp_path):
    path = tmp_path / "console.log"
    path.write_text("1\n2\n")
    console = Console(path)
    assert (console.last(1), console.news()) == (["2"], [])
    (tmp_path / "console.log.1").write_text("1\n2\n3\n")
    path.write_text("")
    assert console.news() == ["3"]
    path.write_text("4\n")
    assert console.news() == ["4"]
    path.unlink()
    assert console.news() == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", NOON - 90), ("10m", NOON - 600), ("1.5h", NOON - 5400), ("2d", NOON - 172_800),
     ("2027-01-15T08:00:00Z", NOON), ("2027-01-15T10:00:00+02:00", NOON)],
)  # fmt: skip
def test_since_is_a_duration_or_a_time(text, seconds):
    assert moments.since(text, NOON) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "yesterday", "99999-01-01"])
def test_another_since_is_refused(text):
    with pytest.raises(OneflowerError, match="neither a duration nor a time"):
        moments.since(text)
    assert moments.seconds_of(text) is None
