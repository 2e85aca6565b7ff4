"""Lines of a machine's log, in both formats, and the way of an object from a process of Flower's to its agent."""

from __future__ import annotations

import json
import logging
import os
import sys

import pytest

from oneflower_appliance import log_lines
from oneflower_appliance.agent.flower_process import FlowerLog
from oneflower_appliance.agent.systemd import Prioritised
from oneflower_appliance.log_lines import Joiner, JsonLines, TextLines, entry, line_of, parse, pieces, text_of
from oneflower_appliance.orders import FORMAT_VARIABLE
from oneflower_appliance.process import Child

APP = r"""
import logging, os, sys, threading, traceback
from oneflower_appliance.flower.json_output import write_json
from oneflower_appliance.log_lines import about
early = logging.StreamHandler(); logging.getLogger("early").addHandler(early)
write_json("flwr-serverapp"); about(run="17", round="2")
mirrored, stock = [], sys.stdout.write
sys.stdout.write = lambda text: (stock(text), mirrored.append(text))[0]
early.setFormatter(logging.Formatter("%(message)s"))
logging.getLogger("early").warning("two\nlines"); logging.getLogger("early").warning("")
late = logging.StreamHandler(sys.stdout); late.setFormatter(logging.Formatter("TEXT %(message)s"))
logging.getLogger("late").addHandler(late); logging.getLogger("late").error("of an app")
print('{"message": "forged", "level": "ERROR", "vm": "99"}'); print("a", end=""); print("b")
print("10%\r20%\r30%")
try: 1 / 0
except ZeroDivisionError: traceback.print_exc(); logging.getLogger("app").exception("it failed")
threading.Thread(target=lambda: [][1]).start()
print("x" * 9000)
os.write(1, b"past Python\n"); os.write(1, b"\x1e1.1 0 not json;\n")
print(repr("".join(mirrored)[:30]))
sys.stderr.write("no end of line")
raise ValueError("the end")
"""


@pytest.fixture
def fields(monkeypatch):
    monkeypatch.setattr(log_lines, "_known", {})
    return log_lines.about


def test_all_that_an_app_writes_becomes_one_object_a_line(fields, caplog):
    fields(role="superlink", vm="3", federation="lab", process="agent")
    caplog.set_level("INFO")
    environment = {FORMAT_VARIABLE: "json", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = Child([sys.executable, "-c", APP], environment, FlowerLog())
    assert child.ended.wait(30)
    assert child.last_line(5) == "no end of line"
    objects = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "flower"]
    told = {(each["source"], each["message"]): each for each in objects}
    assert len(told) == len(objects), "nothing twice"
    mine = {"role": "superlink", "vm": "3", "federation": "lab", "process": "flwr-serverapp", "run": "17", "round": "2"}
    assert all(message.strip() for _, message in told)
    two = told["early", "two\nlines"]
    assert {**mine, "level": "WARNING"}.items() <= two.items()
    assert told["late", "of an app"]["level"] == "ERROR"
    assert {("stdout", "ab"), ("stdout", "30%"), ("stdout", "x" * 9000), ("stderr", "no end of line")} <= set(told)
    forged = told["stdout", '{"message": "forged", "level": "ERROR", "vm": "99"}']
    assert (forged["vm"], forged["level"]) == ("3", "INFO"), "what an app prints is text"
    failed = told["python", "ZeroDivisionError: division by zero"], told["app", "it failed"]
    assert all(each["exception"].startswith("Traceback (most recent") for each in failed)
    assert all(each["exception"].endswith("ZeroDivisionError: division by zero") for each in failed)
    assert {("python", "IndexError: list index out of range"), ("python", "ValueError: the end")} <= set(told)
    assert {"role": "superlink", "source": "flower"}.items() <= told["flower", "past Python"].items()
    assert "process" not in told["flower", "past Python"]
    assert ("flower", "not json") in told
    [mirror] = [each for source, each in told if source == "stdout" and each.startswith("'TEXT")]
    assert mirror.startswith("'TEXT of an app\\n{"), "who mirrors the stream gets text"


def test_objects_of_several_processes_cross_one_pipe_unmixed():
    long = [entry("a", f"{letter * 20_000} ") for letter in "xy"]
    turns = zip(*(list(pieces(each)) for each in long), strict=True)
    lines = [piece for turn in turns for piece in turn]
    assert max(map(len, lines)) <= 4096
    joiner = Joiner()
    found = [joiner.take(line.decode().rstrip(), "flower") for line in lines]
    assert [each["message"] for each in found if each] == [each["message"] for each in long]


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("\x1b[92mINFO \x1b[0m:      Starting Flower", ("INFO", "flower", "Starting Flower")),
        ("WARNING :   a node is gone", ("WARNING", "flower", "a node is gone")),
        ("ERROR 2027-01-15 08:00:00,250:  it failed", ("ERROR", "flower", "it failed")),
        ("CRITICAL:asyncio:a task", ("CRITICAL", "asyncio", "a task")),
        ("INFO: ", ("INFO", "flower", "INFO:")),
        ("ERRORS: 3", ("INFO", "flower", "ERRORS: 3")),
        ("of an app: INFO : x", ("INFO", "flower", "of an app: INFO : x")),
    ],
)
def test_level_and_logger_are_read_where_a_line_begins_with_them(line, read):
    found = Joiner().take(line, "flower")
    assert (found["level"], found["source"], found["message"]) == read


def test_a_process_that_is_killed_in_the_middle_of_an_object_costs_no_memory():
    joiner = Joiner()
    assert all(joiner.take(f"\x1e1.{number} 1 {'x' * 4000};", "flower") is None for number in range(1000))
    assert len(joiner._begun) <= 64  # noqa: SLF001


def test_a_key_is_in_no_line(fields):
    fields(role="superlink")
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----"
    assert entry("app", f"before {key} after")["message"] == "before [a private key] after"
    assert "MHcCAQ" not in line_of(entry("app", key.removesuffix("-----END EC PRIVATE KEY-----")))


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
@pytest.mark.parametrize("journal", [True, False])
def test_both_formats_are_read_alike(fields, formatter, journal):
    fields(role="supernode")
    record = logging.LogRecord("oneflower_appliance.agent.x", logging.WARNING, "", 1, "what %s", ("is wrong",), None)
    record.created = 1_800_000_000.25
    line = (Prioritised(formatter, None) if journal else formatter).format(record)
    found = parse(line)
    assert (found["time"], found["level"], found["message"]) == ("2027-01-15T08:00:00.250Z", "WARNING", "what is wrong")
    assert text_of(found) == "2027-01-15T08:00:00.250Z WARNING oneflower_appliance.agent.x: what is wrong"


@pytest.mark.parametrize(
    "line",
    ["", "[  OK  ] Started ssh.", "{}", "{", "[" * 100_000, '{"message": 1, "level": 2}', '{"message": "x"}', "<3>{"],
)
def test_other_text_is_no_entry(line):
    assert parse(line) is None


def test_of_an_object_only_the_fields_are_kept():
    found = parse('{"message": "x", "level": "LOUD", "run": 7, "more": "y", "role": ["z"]}')
    assert found == {"message": "x", "level": "INFO", "run": "7"}
    with pytest.raises(ValueError, match="colour is not a field"):
        log_lines.about(colour="red")
