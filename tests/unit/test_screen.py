"""What people see while a step takes long, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from rich.console import Console

from oneflower.cli import screen, steps
from oneflower.events import Note, RunBegan, Step


def test_off_a_terminal_there_is_a_line_now_and_then_and_only_while_it_waits(monkeypatch):
    said, told = [], threading.Event()

    def say(text):
        said.append(text)
        if len(said) > 2:
            told.set()

    monkeypatch.setattr(steps, "say", say)
    with steps.Pulse(lambda width: "round 2 of 5", silence=0.01):
        assert told.wait(20)
    assert set(said) == {"  ... round 2 of 5"}
    before = len(said)
    time.sleep(0.05)
    assert len(said) == before


def test_a_step_that_takes_long_says_that_it_still_does_and_the_next_one_starts_anew(monkeypatch):
    said, told = [], threading.Event()

    def say(text):
        said.append(text)
        if len(said) > 2:
            told.set()

    monkeypatch.setattr(steps, "say", say)
    with steps.Steps(silence=0.01) as shows:
        shows.notify(Step("Debian packages"))
        assert told.wait(20)
        shows.notify(Step("compress"))
        since = len(said)
    assert said[0] == "  Debian packages ..."
    assert all(text.startswith("  ... Debian packages: ") for text in said[1 : said.index("  compress ...")])
    assert all("Debian" not in text for text in said[since:])


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, and what was drawn on it."""
    drawn = io.StringIO()
    monkeypatch.setattr(steps, "console", lambda: Console(file=drawn, force_terminal=True, width=80))
    return drawn


def test_on_a_terminal_a_line_counts_while_a_run_goes_on(terminal):
    texts = iter(f"round 1, {number} s" for number in range(100000))
    counted = threading.Event()

    class Living:
        due = None

        def text(self, width):
            text = next(texts)
            if text == "round 1, 20 s":
                counted.set()
            return text + " and much more" * 20

    with steps.Steps(Living(), tick=0.01) as shows:
        shows.notify(Step("submitting"))
        assert "round 1" not in terminal.getvalue()
        shows.notify(RunBegan("5"))
        assert counted.wait(20)
        shows.notify(Step("stopping run 5"))
        shown = terminal.getvalue()
        shows.notify(Note("run 5 is stopped."))
    assert "round 1," in shown
    lines = [line for line in re.split(r"\x1b[^A-Za-z]*[A-Za-z]|[\r\n]", shown) if "round 1" in line]
    assert all(len(line) < 80 and line.endswith("…") for line in lines), "it takes one line, however narrow"
    assert "stopping run 5" in terminal.getvalue()


@pytest.mark.parametrize(
    ("command", "called", "found", "shown"),
    [
        (".venv/bin/oneflower", "/x/.venv/bin/oneflower", "", ".venv/bin/oneflower"),
        ("", "{tmp}/oneflower", "{tmp}/oneflower", "oneflower"),
        ("", ".venv/bin/oneflower", "", ".venv/bin/oneflower"),
        ("", ".venv/bin/oneflower", "/elsewhere/oneflower", ".venv/bin/oneflower"),
        ("", "-c", "", "oneflower"),
    ],
)
def test_what_to_type_next_works_from_where_the_user_stands(monkeypatch, tmp_path, command, called, found, shown):
    monkeypatch.setenv("ONEFLOWER_COMMAND", command)
    monkeypatch.setattr(screen.sys, "argv", [called.format(tmp=tmp_path)])
    monkeypatch.setattr(screen.shutil, "which", lambda _: found.format(tmp=tmp_path) or None)
    assert screen.program() == shown


def test_ctrl_c_while_the_line_that_lives_starts_is_no_defect(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    pulse = steps.Pulse(lambda _: "working")
    with monkeypatch.context() as patch:
        patch.setattr(steps.threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pulse.start()
    pulse.stop()
    with pulse:
        pass
