"""Another user of this machine, who does what a test says."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - what sockets load when first used, another user may not be able to read
import json
import os
import traceback

import pytest

NOBODY = 65534


def as_another_user(act):
    """Return what `act` returns (JSON) in a process of another user. What it needs is to be imported before."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.closerange(3, writing)
            os.closerange(writing + 1, 4096)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = act()
        except BaseException:  # noqa: BLE001 - it is told, and this process ends
            told = traceback.format_exc()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(told))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.load(pipe)
    os.waitpid(child, 0)
    return told
