"""A machine with little memory and part of a core: a control group of Linux, of either version."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000  # microseconds


class Limits:
    """Holds processes, and those that they start, to `memory` bytes without swap and `cores` of a core."""

    def __init__(self, name, memory, cores):
        quota = int(_PERIOD * cores)
        if (_ROOT / "cgroup.controllers").exists():
            with contextlib.suppress(OSError):  # they may be on already
                (_ROOT / "cgroup.subtree_control").write_text("+memory +cpu")
            self._folders = {
                _ROOT / name: {"memory.max": memory, "memory.swap.max": 0, "cpu.max": f"{quota} {_PERIOD}"}
            }
            self._refused = (_ROOT / name / "memory.events", "oom_kill")
        else:
            self._folders = {
                _ROOT / "memory" / name: {"memory.limit_in_bytes": memory},
                _ROOT / "cpu" / name: {"cpu.cfs_period_us": _PERIOD, "cpu.cfs_quota_us": quota},
            }
            self._refused = (_ROOT / "memory" / name / "memory.oom_control", "oom_kill")

    def __enter__(self):
        for folder, values in self._folders.items():
            folder.mkdir()
            for file, value in values.items():
                (folder / file).write_text(str(value))
        return self

    def hold(self, process):
        """Hold one process, and those that it starts from now on."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(process.pid))

    def holds(self, process):
        """Whether a process is held."""
        names = {folder.name for folder in self._folders}
        return names <= {
            line.rpartition("/")[2] for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        }

    @property
    def killed(self):
        """How many of its processes the kernel killed, because there was no memory left."""
        file, name = self._refused
        return sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == name)

    def __exit__(self, *_):
        deadline = time.monotonic() + 20
        for folder in self._folders:
            while folder.exists():
                try:
                    folder.rmdir()  # once nothing is in it any more
                except OSError:
                    assert time.monotonic() < deadline, f"there are processes in {folder}"
                    time.sleep(0.1)


def why_not():
    """Why no machine can be limited here, or an empty text."""
    if os.geteuid():
        return "only root can limit the memory of a machine"
    try:
        with Limits("oneflower-probe", 1 << 29, 0.5):
            return ""
    except OSError as error:
        return f"no control group can be made here: {error}"


def megabytes(processes):
    """What processes would take on a machine of their own: memory of their own, and each file that they map once."""
    own, files = 0, {}
    for process in processes:
        with contextlib.suppress(OSError):
            here, name = {}, ""
            for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
                first, *rest = line.split()
                if not first.endswith(":"):
                    name = rest[4] if len(rest) > 4 and rest[4].startswith("/") else ""
                elif name and first == "Rss:":
                    here[name] = here.get(name, 0) + int(rest[0])
                elif first == "Anonymous:" and name:
                    here[name] -= int(rest[0])
            files = {name: max(files.get(name, 0), here.get(name, 0)) for name in files | here}
            own += _anonymous(process.pid)
    return (own + sum(files.values())) / 1024


def _anonymous(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss_Anon:"))
