"""What an app prints is told apart from Flower's log, and its last lines are shown."""

from __future__ import annotations

import logging

import pytest
from flwr.supercore.logger import ConsoleHandler

from oneflower.cli.printed import Printed
from oneflower.cloud.app_output import AppOutput, Shown, last_lines


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


TRACEBACK = "Traceback (most recent call last):\n" + '  File "x.py", line 1\n' * 20 + "ValueError: no\n"


@pytest.fixture
def printed(capsys):
    """What shows an app's output; `printed.seen()` returns the lines that were shown since it was last called."""
    found = Printed()

    def seen():
        return capsys.readouterr().err.splitlines()

    found.seen = seen
    return found


def test_what_an_app_prints_is_shown_as_it_comes(printed):
    printed.add("INFO :      [ROUND 1]\none\n1 %\r50 %\r100 %\ntw")
    assert printed.seen() == ["  | one", "  | 100 %"]
    printed.add("o\nthree")
    assert printed.seen() == ["  | two"]
    printed.end(failed=False)
    assert printed.seen() == ["  | three"]


def test_of_very_much_the_last_lines_are_shown_before_the_next_row(printed):
    printed.add("".join(f"{number}\n" for number in range(1000)))
    assert printed.seen() == [f"  | {number}" for number in range(200)]
    printed.end_round()
    assert printed.seen() == ["  | ... 788 more lines (`--log` shows all)", *(f"  | {n}" for n in range(988, 1000))]
    printed.add("".join(f"{number}\n" for number in range(21)))
    assert len(printed.seen()) == 20
    printed.end(failed=True)
    assert printed.seen() == ["  | 20"]


def test_a_traceback_is_shown_once(printed):
    printed.add(f"before\n{TRACEBACK}")
    assert printed.seen() == ["  | before"]
    printed.end_round()
    assert printed.seen()[-1] == "  | ValueError: no", "the app went on"
    printed.add(f"before\n{TRACEBACK}")
    printed.end(failed=True)
    assert printed.seen() == ["  | before"]
    log = f"before\n{TRACEBACK}"
    assert last_lines(log, Shown.PRINTED) == last_lines(log)[1:] == log.splitlines()[-12:]
    assert last_lines(log, Shown.ALL) == last_lines("before\n", Shown.PRINTED) == []


def test_what_an_app_prints_does_not_act_on_the_terminal(printed):
    printed.add("\x1b]0;owned\x07\x1b[2Jhello\n")
    assert "\x1b" not in "".join(printed.seen())
