"""What the agent says to systemd, and whether a machine can run Flower at all."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from oneflower_appliance.agent.hardware import WriteProbe, check_disk, check_hardware, full_disks, is_emulated
from oneflower_appliance.agent.journal import Health, Journal
from oneflower_appliance.agent.systemd import Prioritised, rest, stopping, tell
from oneflower_appliance.errors import ExitCode, OneflowerError

V2 = "fpu sse sse2 cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The socket at which systemd would listen; returns what has arrived."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def arrived():
            lines = []
            while True:
                try:
                    lines += listener.recv(4096).decode().split("\n")
                except BlockingIOError:
                    return lines

        yield arrived


def test_systemd_hears_that_the_agent_lives_and_how_it_is(told, tmp_path):
    journal = Journal("superlink", tmp_path / "status.json")
    journal.waiting("OneGate does not answer.")
    assert {"READY=1", "WATCHDOG=1", "STATUS=starting: OneGate does not answer."} <= set(told())
    journal.ready()
    assert "STATUS=done" in told()
    journal.broken(Health.ERROR, "Flower ended.")
    assert "STATUS=error: Flower ended." in told()


def test_a_long_rest_is_no_reason_to_be_started_again(told):
    rest(0.01)
    assert told() == ["WATCHDOG=1"]


def test_an_agent_that_waits_for_its_task_before_it_ends_is_not_killed(told):
    stopping()
    assert told() == ["STOPPING=1", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"]


def test_without_systemd_nothing_is_said(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nobody/listens")
    tell("READY=1")


@pytest.mark.parametrize(
    ("name", "level", "priority"),
    [
        ("oneflower_appliance.agent.journal", logging.INFO, 5),
        ("oneflower_appliance.agent.journal", logging.DEBUG, 6),
        ("flower", logging.INFO, 6),
        ("flower", logging.WARNING, 4),
        ("agent", logging.ERROR, 3),
    ],
)
def test_the_journal_learns_how_much_a_line_matters(name, level, priority):
    formatter = Prioritised(logging.Formatter("%(message)s"), own=Journal.__module__.rpartition(".")[0])
    line = formatter.format(logging.LogRecord(name, level, __file__, 1, "what happens", None, None))
    assert line == f"<{priority}>what happens"


def machine(tmp_path, processors, memory):
    (tmp_path / "cpuinfo").write_text(processors)
    (tmp_path / "meminfo").write_text(memory)
    return tmp_path / "cpuinfo", tmp_path / "meminfo"


@pytest.mark.parametrize(
    ("processors", "memory"),
    [
        (f"processor\t: 0\nflags\t\t: {V2}\n", "MemTotal:        1024000 kB\n"),
        ("Features\t: fp asimd\n", "MemTotal:        1024000 kB\n"),  # another architecture
        ("", ""),
    ],
)
def test_a_machine_that_is_good_enough(tmp_path, processors, memory):
    check_hardware(*machine(tmp_path, processors, memory))


def test_a_processor_on_which_numpy_dies_is_named_before_it_does(tmp_path):
    flags = V2.replace("sse4_2", "").replace("popcnt", "")
    with pytest.raises(OneflowerError) as refused:
        check_hardware(*machine(tmp_path, f"flags\t\t: {flags}\n", "MemTotal: 1024000 kB\n"))
    assert "lacks popcnt, sse4_2" in refused.value.message
    assert "host-passthrough" in refused.value.hint
    assert refused.value.code is ExitCode.ENVIRONMENT


def test_too_little_memory_is_named_before_flower_starts(tmp_path):
    with pytest.raises(OneflowerError) as refused:
        check_hardware(*machine(tmp_path, f"flags\t\t: {V2}\n", "MemTotal:         250000 kB\n"))
    assert "244 MB" in refused.value.message


def test_an_emulated_processor_is_known(tmp_path):
    cpuinfo, _ = machine(tmp_path, "model name\t: QEMU TCG CPU version 2.5+\n", "")
    assert is_emulated(cpuinfo)
    cpuinfo, _ = machine(tmp_path, "model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz\n", "")
    assert not is_emulated(cpuinfo)


def test_a_disk_that_is_full_or_cannot_be_written_is_said(tmp_path, monkeypatch):
    check_disk(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "writable").mkdir()  # in the way, as on a disk that is read-only
    with pytest.raises(OneflowerError, match="Cannot write"):
        check_disk(tmp_path)
    checkpoints = {"ONEFLOWER_CHECKPOINTS": "disk:vdb", "FL_CHECKPOINT_PATH": "/srv/kept"}
    data = {"ONEFLOWER_DATA": "disk:vdc", "FL_DATA_PATH": "/srv/data"}  # only read, so it may be full
    monkeypatch.setattr(
        os, "statvfs", lambda folder: SimpleNamespace(f_bavail="srv" not in str(folder), f_frsize=4 << 20)
    )
    assert full_disks(tmp_path, data) == []
    (full,) = full_disks(tmp_path, checkpoints | data)
    assert "The disk is full" in full
    assert "/srv/kept" in full
    with pytest.raises(OneflowerError, match="The disk is full") as refused:
        check_disk(Path("/srv/kept"))
    assert "onevm disk-resize" in refused.value.hint


def test_a_disk_that_takes_no_more_writes_is_found_while_flower_runs(tmp_path, monkeypatch):
    now = [0.0]
    probe = WriteProbe(tmp_path, lambda: now[0])
    now[0] = 20.0
    probe.look()
    assert list(tmp_path.iterdir()) == []

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    now[0] = 39.0
    probe.look()  # not yet again
    now[0] = 40.0
    with pytest.raises(OneflowerError, match="Read-only file system") as refused:
        probe.look()
    assert "repairs the file system" in refused.value.hint
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))
    now[0] = 99.0
    probe.look()  # full: that is said, and Flower continues
