"""Stock Flower's SuperExec, which is started again when it dies."""

import subprocess
import sys
import time
from types import SimpleNamespace

from oneflower_appliance.flower import superexec

LASTS = "import time; time.sleep(60)"


def until(wanted):
    deadline = time.monotonic() + 20
    while not (found := wanted()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_a_superexec_that_dies_is_started_again_until_it_is_ended(monkeypatch):
    monkeypatch.setattr(superexec, "PAUSE", 0)
    monkeypatch.setattr(superexec, "COMMAND", sys.executable)
    module = SimpleNamespace(subprocess=subprocess)
    superexec.start_in(module, superexec.StockSuperExec)
    started = module.subprocess.Popen([sys.executable, "-c", LASTS], start_new_session=True)
    first = started._process
    first.kill()
    assert until(lambda: started._process is not first)
    started.terminate()
    started.wait(20)
    assert started._process.returncode


def test_another_program_is_started_as_ever():
    module = SimpleNamespace(subprocess=subprocess)
    superexec.start_in(module, superexec.StockSuperExec)
    with module.subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert isinstance(process, subprocess.Popen)
    assert module.subprocess.PIPE == subprocess.PIPE
