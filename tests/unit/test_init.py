"""The init of a machine: real processes, small ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from oneflower.clouds import LocalSurroundings
from oneflower.local.host import init, processes
from oneflower_appliance.log_lines import parse


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(script):
        agent = tmp_path / "agent.py"
        agent.write_text("import os, signal, subprocess, sys, time\nhere = sys.argv[1]\n" + script)
        environment = {**os.environ, processes.MARK: str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", init.__file__, sys.executable, str(agent), str(tmp_path), "{init}"],
            env=environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process, Console(process)

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()
    processes.sweep(tmp_path)


class Console:
    """What a machine writes, line by line."""

    def __init__(self, process):
        self._stream = process.stderr.fileno()
        self._rest = b""

    def line(self, word, limit=8.0):
        """Wait for a line with a word in it, and return what follows the word."""
        deadline = time.monotonic() + limit
        while True:
            line, end, rest = self._rest.partition(b"\n")
            if not end:
                ready, _, _ = select.select([self._stream], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, f"there was no line with {word!r}"
                more = os.read(self._stream, 4096)
                assert more, f"it ended without a line with {word!r}"
                self._rest += more
                continue
            self._rest = rest
            if word in line.decode():
                return line.decode().partition(word)[2].strip()


def until(condition, limit=8.0):
    deadline = time.monotonic() + limit
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return result


def wait_for_end(descriptor, limit=8.0):
    """Wait until a process, by its pidfd, has ended."""
    ended, _, _ = select.select([descriptor], [], [], limit)
    os.close(descriptor)
    assert ended, "it did not end"


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_its_lines_are_text_or_objects(capfd, monkeypatch):
    init.say("it ended")
    monkeypatch.setattr(init, "fields", '"vm": "7", "process": "init"')
    init.say("it ended")
    text, as_object = map(parse, capfd.readouterr().err.splitlines())
    for found in (text, as_object):
        assert (found["level"], found["source"], found["message"]) == ("INFO", "init", "it ended")
    assert as_object["vm"] == "7"


NOTE = "print('agent', os.getpid(), file=sys.stderr, flush=True)\n"
SLEEP = "time.sleep(60)\n"


@pytest.mark.e2e
def test_an_agent_that_dies_is_started_again(start):
    _, console = start(NOTE + SLEEP)
    first = int(console.line("agent"))
    os.kill(first, signal.SIGKILL)
    assert console.line("the agent ended with status") == "-9; starting it again in 2 s"
    assert int(console.line("agent")) != first


def test_an_agent_that_refused_its_settings_is_not_started_again(start):
    process, console = start(NOTE + "sys.exit(78)\n")
    console.line("agent")
    console.line("the agent refused its settings; waiting to be shut down")
    with pytest.raises(AssertionError, match="no line"):
        console.line("agent", limit=1.5)
    assert process.poll() is None, "the machine stays up, as a VM whose unit failed"
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_sigterm_reaches_the_agent_and_is_waited_for(start, tmp_path):
    process, console = start(
        "def stop(*_):\n    time.sleep(0.3)\n    open(here + '/clean', 'w').close()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n" + NOTE + SLEEP
    )
    console.line("agent")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert (tmp_path / "clean").exists()


@pytest.mark.e2e
def test_what_an_agent_leaves_behind_is_ended_also_when_it_hides_in_its_own_session(start):
    child = "subprocess.Popen([sys.executable, '-c', 'import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'], start_new_session=True)"
    process, console = start(f"p = {child}\nprint('child', p.pid, file=sys.stderr, flush=True)\n" + SLEEP)
    orphan = int(console.line("child"))
    process.send_signal(signal.SIGTERM)
    process.wait(8)
    assert not alive(orphan)


def test_a_sweep_ends_a_machine_whose_init_was_killed(start, tmp_path):
    process, console = start(NOTE + SLEEP)
    agent = int(console.line("agent"))
    process.kill()
    process.wait()
    assert alive(agent)
    descriptor = os.pidfd_open(agent)
    processes.sweep(tmp_path)
    wait_for_end(descriptor)


def test_a_console_that_grows_too_long_is_moved_aside_and_written_on(tmp_path):
    """Real writers: an init, and a child of its that keeps the same file open."""
    script = (
        "import subprocess\n"
        "from oneflower.local.host import init\n"
        "for number in range(200):\n"
        "    subprocess.run(['sh', '-c', f'seq {number * 1000} {number * 1000 + 999} >&2'])\n"
        "    init.rotate(limit=50_000)\n"
    )
    console = tmp_path / "console.log"
    with console.open("ab") as stream:
        subprocess.run([sys.executable, "-c", script], stderr=stream, check=True)
    older = tmp_path / "console.log.1"
    assert sorted(tmp_path.iterdir()) == [console, older]
    assert console.stat().st_size <= 60_000
    assert older.stat().st_size <= 50_000
    last = [int(line) for line in older.read_text().splitlines()[1:] + console.read_text().splitlines()]
    assert last == list(range(last[0], 200_000)), "nothing in between is lost"


def test_a_machines_console_is_rotated_while_its_agent_runs(tmp_path):
    console = tmp_path / "console.log"
    small = Path(init.__file__).read_text().replace("CONSOLE_LIMIT = 10_000_000", "CONSOLE_LIMIT = 20_000")
    small = small.replace("CONSOLE_LOOK = 5.0", "CONSOLE_LOOK = 0.05")
    (tmp_path / "small_init.py").write_text(small)
    agent = tmp_path / "agent.py"
    agent.write_text("import sys, time\nwhile True:\n    print('x' * 999, file=sys.stderr)\n    time.sleep(0.001)\n")
    with console.open("ab") as stream:
        process = subprocess.Popen([sys.executable, "-I", "-S", tmp_path / "small_init.py", sys.executable, agent],
                                   stderr=stream, env={**os.environ, processes.MARK: str(tmp_path)})  # fmt: skip
    try:
        until((tmp_path / "console.log.1").exists)
        first = (tmp_path / "console.log.1").stat().st_mtime_ns
        until(lambda: (tmp_path / "console.log.1").stat().st_mtime_ns != first)
        assert (tmp_path / "console.log.1").stat().st_size <= 40_000
    finally:
        process.kill()
        process.wait()
        processes.sweep(tmp_path)


def test_a_terminal_and_a_pipe_are_left_alone():
    script = "from oneflower.local.host import init; init.rotate(limit=0)"
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=True).stderr == b""


def test_logs_are_read_on_in_what_was_moved_aside():
    here = LocalSurroundings()
    folder = here.home.machine(3)
    folder.mkdir(parents=True)
    assert here.console(3, 5) == []
    (folder / "console.log.1").write_text("1\n2\n3\n")
    (folder / "console.log").write_text("4\n5\n")
    assert here.console(3, 4) == ["2", "3", "4", "5"]
    assert here.console(3, 1) == ["5"]
