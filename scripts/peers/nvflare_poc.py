"""Runs jobs on NVFLARE's proof of concept: a server and clients, as real processes with mutual TLS, on this machine.

It runs in NVFLARE's environment, in namespaces of its own: NVFLARE's server listens on all addresses, and what is left
of it ends with this process. Each job is a folder as NVFLARE reads it.

usage: python nvflare_poc.py FOLDER NODES JOB ...
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from nvflare.fuel.flare_api.flare_api import MonitorReturnCode, NoConnection, Session, new_secure_session

ADMIN = "admin@nvidia.com"
_SET_FLAGS, _UP = 0x8914, 1  # of a network interface
_PATIENCE = 60.0  # seconds for all to start
_LONGEST = 900.0  # seconds for a job


def main() -> None:
    """Start NVFLARE, run the jobs, and end."""
    folder, nodes, *jobs = sys.argv[1:]
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    workspace = Path(folder) / "poc"
    os.environ["NVFLARE_POC_WORKSPACE"] = str(workspace)
    os.environ["HOME"] = folder
    with (Path(folder) / "log").open("w", encoding="utf-8") as log:
        prepare = [str(Path(sys.executable).parent / "nvflare"), "poc", "prepare", "-n", nodes]
        subprocess.run(prepare, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        kits = next(workspace.glob("*/prod_00"))
        for name in ("server", *(f"site-{number + 1}" for number in range(int(nodes)))):
            start = [str(kits / name / "startup" / "sub_start.sh"), "--once"]
            subprocess.Popen(start, stdout=log, stderr=log)
        session = _connect(kits / ADMIN, int(nodes))
        for job in jobs:
            number = session.submit_job(job)
            if session.monitor_job(number, timeout=_LONGEST, poll_interval=0.5) != MonitorReturnCode.JOB_FINISHED:
                raise SystemExit(f"NVFLARE did not finish the job {job} in {_LONGEST:g} s.")
            status = session.get_job_meta(number)["status"]
            if status != "FINISHED:COMPLETED":
                raise SystemExit(f"NVFLARE ended the job {job} with {status}.")
    sys.stdout.flush()
    os._exit(0)  # NVFLARE's own threads would go on; its other processes end with this one


def _connect(kit: Path, nodes: int) -> Session:
    deadline = time.monotonic() + _PATIENCE
    session = None
    while time.monotonic() < deadline:
        with suppress(NoConnection):
            session = session or new_secure_session(ADMIN, str(kit), timeout=5)
            if len(session.get_system_info().client_info) == nodes:
                return session
        time.sleep(0.5)
    raise SystemExit(f"NVFLARE did not start in {_PATIENCE:g} s.")


if __name__ == "__main__":
    main()
