"""A task in a confinement: what the policy of its site says about time, memory, files and network, held by the kernel.

The process that was started for a task becomes its guard and forks the task into namespaces of its own. There the task
is the first process, so everything that it starts ends with it; nothing outside can be named, signalled or traced; and
the root has only what a task needs: the system and its packages to read, its run's folder to write. Without egress
there is no network but a loopback on which only its SuperNode is reached.

The guard ends the task when it takes too long or too much memory. It ends when the task ends, and the task with it.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import kernel
from oneflower_appliance.flower.relay import Relay
from oneflower_appliance.orders import TASK_VARIABLE, Confinement

if TYPE_CHECKING:
    from collections.abc import Iterable

TOO_LONG, TOO_MUCH, NOT_CONFINED = 121, 122, 123  # exit statuses
WHY = {
    TOO_LONG: "took more time than the policy of its site allows",
    TOO_MUCH: "took more memory than the policy of its site allows",
    NOT_CONFINED: "could not be confined as the policy of its site asks; the node's log says why",
}
_LOOK = 0.2  # seconds between two looks at time and memory
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/sys")
_SETTINGS = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ssl", "ca-certificates", "passwd", "group", "nsswitch.conf", "hosts",
    "localtime", "timezone", "os-release", "alternatives", "mime.types", "OpenCL", "debian_version", "pki",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom")
_OWN_PLACE = "/tmp"  # noqa: S108 - it exists everywhere; what is mounted there is in a namespace of its own

_state: dict[str, int] = {}  # of this process, if it is a task that is confined


def own_pid() -> int:
    """Return the number by which processes outside know this one."""
    return _state.get("pid", os.getpid())


def confine() -> None:
    """Confine this process as the policy of its site asks, once. Where there is none, do nothing.

    What returns is a child of this process, which stays as its guard. If it cannot be confined, nothing returns.
    """
    if (said := os.environ.get(TASK_VARIABLE)) and not _state:
        _confine(Confinement.read(said), _parent())


def begin() -> None:
    """Let the time of this task begin now: it waited for its orders."""
    if "clock" in _state:
        with suppress(OSError):
            os.write(_state["clock"], b"b")


def check(said: str) -> None:
    """Try it in a fork. Raises `OneflowerError` if this machine cannot confine a task."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.dup2(writing, sys.stderr.fileno())
        _confine(Confinement.read(said), 0)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        reason = stream.read().strip()
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OneflowerError(
            "This machine cannot confine tasks as the policy of its site asks: "
            f"{reason.splitlines()[-1] if reason else f'status {status}'}",
            "It needs Linux 5.12 or newer on x86-64 where users may make namespaces of their own "
            "(`sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`). Or take [task] out of the policy.",
            ExitCode.ENVIRONMENT,
        )


def _parent() -> int:
    """Return the process with which a task ends, and let Flower in the task not look for it, as it cannot see it."""
    name = "--parent-pid"
    if name not in sys.argv[:-1]:
        return 0
    at = sys.argv.index(name) + 1
    parent, sys.argv[at] = int(sys.argv[at]), "1"
    return parent


def _confine(wanted: Confinement, parent: int) -> None:
    try:
        kernel.demand()
        close_folders()
        relay = Relay(*wanted.address) if wanted.egress == "none" else None
        kernel.leave_namespaces(network=relay is not None)
        if relay:
            relay.connect()
        told, tell = os.pipe()
        number, name = os.pipe()
        child = os.fork()
    except (OSError, ValueError) as error:
        _cannot(error)
    if child:
        os.close(tell)
        os.close(number)
        os.write(name, str(child).encode())
        os.close(name)
        _guard(child, told, wanted, parent)
    os.close(told)
    os.close(name)
    try:
        kernel.die_with_parent(signal.SIGKILL)
        _state["pid"] = int(os.read(number, 32))
        os.close(number)
        _make_root(wanted)
        os.write(tell, Path("/proc/self/ns/pid").readlink().name.encode() + b"\n")
        kernel.give_up_rights(network=relay is not None)
        _state["clock"] = tell
    except (OSError, ValueError) as error:
        _cannot(error)


def _cannot(error: Exception) -> NoReturn:
    sys.stderr.write(f"A task cannot be confined: {error}\n")
    sys.stderr.flush()
    os._exit(NOT_CONFINED)


def close_folders() -> None:
    """Close every folder that this process has open: it would lead out of a new root."""
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):
            if stat.S_ISDIR(os.fstat(number).st_mode):
                os.close(number)


def _make_root(wanted: Confinement) -> None:
    """Make a root that has only what the task needs."""
    kernel.own_mounts()
    program = {sys.prefix, sys.base_prefix, *filter(_has_packages, sys.path)}
    readable = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *sorted(program), *wanted.readable]
    devices = [f"/dev/{name}" for name in _DEVICES]
    if wanted.gpu:
        devices += [str(path) for path in Path("/dev").glob("nvidia*")]
    sources = {path: os.open(path, os.O_PATH) for path in _existing(readable, links=False)}
    links = {path: Path(path).readlink() for path in _SYSTEM if Path(path).is_symlink()}
    others = {path: os.open(path, os.O_PATH) for path in _existing([*devices, *wanted.writable, "/proc"])}
    kernel.memory_folder(_OWN_PLACE)
    for path, target in links.items():
        Path(f"{_OWN_PLACE}{path}").symlink_to(target)
    for folder in ("/tmp", "/dev", "/dev/shm", "/proc"):  # noqa: S108 - of the new root
        Path(f"{_OWN_PLACE}{folder}").mkdir(exist_ok=True)
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108 - of the new root
        kernel.memory_folder(f"{_OWN_PLACE}{folder}", wanted.memory << 20)
    fresh = kernel.processes(f"{_OWN_PLACE}/proc")
    for path, opened in sorted({**sources, **others}.items()):
        if path != "/proc" or not fresh:
            _place(opened, f"{_OWN_PLACE}{path}")
            if path in sources or path == "/proc":
                kernel.read_only(f"{_OWN_PLACE}{path}")
        os.close(opened)
    if fresh:
        kernel.read_only(f"{_OWN_PLACE}/proc")
    kernel.new_root(_OWN_PLACE)


def _has_packages(folder: str) -> bool:
    """Whether a folder in which Python looks has our packages, or those that were installed: not a script's folder."""
    path = Path(folder)
    return path.name in ("site-packages", "dist-packages") or (path / "oneflower_appliance").is_dir()


def _existing(paths: Iterable[str], *, links: bool = True) -> list[str]:
    found = {str(Path(path)) if not links else path for path in paths if Path(path).exists()}
    return [path for path in sorted(found) if links or path not in _SYSTEM or not Path(path).is_symlink()]


def _place(opened: int, target: str) -> None:
    path = Path(target)
    if stat.S_ISDIR(os.fstat(opened).st_mode):
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kernel.bind(f"/proc/self/fd/{opened}", target)


def _guard(task: int, told: int, wanted: Confinement, parent: int) -> NoReturn:
    """Watch a task until it ends, and end as it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ended = os.pidfd_open(task)
    namespace, since = "", time.monotonic()
    status = 0
    while ended not in select.select([ended, *([told] if told >= 0 else [])], [], [], _LOOK)[0]:
        if told >= 0 and select.select([told], [], [], 0)[0]:
            said = os.read(told, 256)
            namespace, since = namespace or said.partition(b"\n")[0].decode(), time.monotonic()
            if not said:
                os.close(told)
                told = -1
        if parent and not _lives(parent):
            break
        if wanted.seconds and time.monotonic() - since > wanted.seconds:
            status = TOO_LONG
            break
        if wanted.memory and namespace and memory_of(namespace) > wanted.memory << 20:
            status = TOO_MUCH
            break
    if status:
        sys.stderr.write(f"A task {WHY[status]}.\n")
        sys.stderr.flush()
    with suppress(ProcessLookupError):
        if ended not in select.select([ended], [], [], 0)[0]:
            os.kill(task, signal.SIGKILL)
    how = os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])
    if not status and how < 0:
        signal.signal(-how, signal.SIG_DFL) if -how not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -how)
    os._exit(status or how)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def memory_of(namespace: str) -> int:
    """Return the bytes that the processes of a process namespace have, with their share of what others have, too."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if (process / "ns" / "pid").readlink().name == namespace:
                text = (process / "smaps_rollup").read_text(encoding="ascii")
                total += int(text.partition("\nPss:")[2].split()[0]) << 10
    return total
