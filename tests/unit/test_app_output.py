"""What an app prints is told apart from Flower's log, and its last lines are shown."""

from __future__ import annotations

import logging

import pytest
from flwr.supercore.logger import ConsoleHandler

from oneflower.cli.printed import Printed
from oneflower.cloud.app_output import AppOutput, last_lines

FIVE = "  | 2\n  | 3\n  | 4\n  | 5\n  | 6\n"


def logged(level, text, *, colored=True, timestamps=False):
    record = logging.LogRecord("flwr", level, __file__, 1, text, (), None)
    return ConsoleHandler(colored=colored, timestamps=timestamps).format(record) + "\n"


@pytest.mark.parametrize("colored", [True, False])
@pytest.mark.parametrize("timestamps", [True, False])
def test_lines_of_flowers_log_are_not_the_apps(colored, timestamps):
    how = {"colored": colored, "timestamps": timestamps}
    log = [
        "Successfully installed digits to /var/lib/oneflower/flwr/apps/somebody.digits.1.0.0.70758ffd.\n",
        logged(logging.INFO, "[ROUND 1]", **how),
        "saved: a model\n",
        "  with 3 layers\n",
        logged(logging.INFO, "", **how),
        logged(logging.WARNING, "DEPRECATED FEATURE: x\n\n            Use y instead.\n        ", **how),
        "INFORMATION: not Flower's\n",
        logged(logging.ERROR, "ServerApp raised an exception", **how),
        "Traceback (most recent call last):\n",
        '  File "x.py", line 1\n',
        "ValueError: no",
    ]
    assert last_lines("".join(log)) == [
        "saved: a model", "  with 3 layers", "INFORMATION: not Flower's", "Traceback (most recent call last):",
        '  File "x.py", line 1', "ValueError: no",
    ]  # fmt: skip


def test_a_long_traceback_does_not_hide_what_the_app_printed_before():
    frames = "".join(f'  File "x.py", line {number}\n' for number in range(30))
    printed = "".join(f"printed {number}\n" for number in range(9))
    lines = last_lines(f"{printed}Traceback (most recent call last):\n{frames}ValueError: no\n")
    assert lines[:5] == [f"printed {number}" for number in range(4, 9)]
    assert (len(lines), lines[-1]) == (17, "ValueError: no")
    assert last_lines(printed * 3) == (printed * 3).splitlines()[-12:]


def test_a_line_that_comes_in_pieces_is_one():
    output = AppOutput()
    assert output.add("INFO :      not ") == []
    assert output.add("the app's\nhel") == []
    assert output.add("lo\nwor") == ["hello"]
    assert output.end() == ["wor"]
    assert output.end() == []


@pytest.mark.parametrize(
    ("text", "table", "shown"),
    [
        ("", True, ""),
        ("INFO :      [ROUND 1]\n", True, ""),
        ("one\n", True, "  the app printed 1 line:\n  | one\n"),
        ("1 %\r50 %\r100 %\n", True, "  the app printed 1 line:\n  | 100 %\n"),
        ("a\nb\n", False, "  the app printed 2 lines:\n  | a\n  | b\n"),
        (
            "".join(f"{n}\n" for n in range(7)),
            True,
            "  the app printed 7 lines, of which these are the last 5 (`--log` shows all):\n" + FIVE,
        ),
    ],
)
def test_the_last_lines_are_shown_under_the_table(capsys, text, table, shown):
    printed = Printed()
    printed.add(text)
    printed.show(table=table)
    assert capsys.readouterr().err == shown


def test_without_a_table_many_more_lines_are_shown(capsys):
    printed = Printed()
    printed.add("".join(f"line {number}\n" for number in range(1000)))
    printed.show(table=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  the app printed 1000 lines, of which these are the last 200 (`--log` shows all):"
    assert (lines[1], lines[-1]) == ("  | line 800", "  | line 999")


def test_what_an_app_prints_does_not_act_on_the_terminal(capsys):
    printed = Printed()
    printed.add("\x1b]0;owned\x07\x1b[2Jhello\n")
    printed.show(table=True)
    assert "\x1b" not in capsys.readouterr().err
