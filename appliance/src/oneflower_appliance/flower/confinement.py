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
from oneflower_appliance.flower.ended_tasks import leave, token_of
from oneflower_appliance.flower.relay import Relay
from oneflower_appliance.flower.task_gpus import gpus
from oneflower_appliance.flower.task_memory import memory_of
from oneflower_appliance.orders import TASK_VARIABLE, VISIBLE_VARIABLE, Confinement

if TYPE_CHECKING:
    from collections.abc import Iterable

TOO_LONG, TOO_MUCH, NOT_CONFINED = 121, 122, 123  # exit statuses
WHY = {
    TOO_LONG: "took more time than the policy of its site allows",
    TOO_MUCH: "took more memory than the policy of its site allows",
    NOT_CONFINED: "could not be confined as the policy of its site asks; the node's log says why",
}
_CONFINED, _PARENT = b"confined\n", "parent "  # what a task tells its guard
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
        _confine(Confinement.read(said))


def begin() -> None:
    """Let the time of this task begin now, as its orders are there, and its guard look after the parent they name.

    Flower's own look from inside would not find it, so it looks at the task itself.
    """
    if "guard" in _state:
        name, parent = "--parent-pid", "0"
        if name in sys.argv[:-1]:
            at = sys.argv.index(name) + 1
            parent, sys.argv[at] = sys.argv[at], "1"
        guard = _state.pop("guard")  # an app could tell it something else
        with suppress(OSError):
            os.write(guard, f"{_PARENT}{int(parent)}\n".encode())
        os.close(guard)


def check(said: str) -> None:
    """Try it in a fork. Raises `OneflowerError` if this machine cannot confine a task."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.dup2(writing, sys.stderr.fileno())
        _confine(Confinement.read(said))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        reason = stream.read().strip()
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OneflowerError(
            "This machine cannot confine tasks as the policy of its site asks: "
            f"{reason.splitlines()[-1] if reason else f'status {status}'}",
            "It needs Linux 5.12 or newer on x86-64 where users may make namespaces of their own "
            "(`sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`) and the agent's unit does not "
            "forbid it (RestrictNamespaces, SystemCallFilter, ProtectKernelTunables). Or take [task] out.",
            ExitCode.ENVIRONMENT,
        )


def _confine(wanted: Confinement) -> None:
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
        word = os.open(wanted.ended, os.O_RDONLY | os.O_DIRECTORY) if wanted.ended else -1
        os.write(name, str(child).encode())
        os.close(name)
        _guard(child, told, wanted, word)
    os.close(told)
    os.close(name)
    try:
        kernel.die_with_parent(signal.SIGKILL)
        _state["pid"] = int(os.read(number, 32))
        os.close(number)
        _make_root(wanted)
        os.write(tell, _CONFINED)
        kernel.give_up_rights(network=relay is not None)
        _state["guard"] = tell
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
    kernel.forbid_namespaces()
    program = {sys.prefix, sys.base_prefix, *filter(_has_packages, sys.path)}
    readable = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *sorted(program), *wanted.readable]
    devices = [f"/dev/{name}" for name in _DEVICES]
    own, variable = gpus(os.environ.get(VISIBLE_VARIABLE), wanted.max_gpus)
    devices += own
    os.environ.update(variable)
    os.environ["HOME"] = _OWN_PLACE  # libraries keep caches there
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
    kernel.read_only("/", below=False)


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


def _guard(task: int, told: int, wanted: Confinement, word: int) -> NoReturn:
    """Watch a task until it ends, and end as it ended. `word` is the folder for word of why it was ended, or -1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ended, watched = os.pidfd_open(task), _Watched(task, told, wanted)
    while ended not in select.select([ended, *watched.pipes], [], [], _LOOK)[0]:
        watched.listen()
        if watched.is_over:
            break
    status = watched.status
    if status:
        sys.stderr.write(f"A task {WHY[status]}.\n")
        sys.stderr.flush()
        if word >= 0:
            leave(word, token_of(sys.argv), WHY[status])
    with suppress(ProcessLookupError):
        os.kill(task, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
    how = os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])
    if not status and how < 0:
        if -how not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-how, signal.SIG_DFL)
        os.kill(os.getpid(), -how)
    os._exit(status or how)


class _Watched:
    """A task, as its guard knows it: what it told before its app was loaded, and whether it took too much."""

    def __init__(self, task: int, told: int, wanted: Confinement) -> None:
        self._task = task
        self.pipes = [told]
        self.status = 0
        self._wanted = wanted
        self._confined, self._parent = False, 0
        self._since = time.monotonic()

    def listen(self) -> None:
        """Read what the task told, if it told something. The first word counts."""
        for pipe in select.select(self.pipes, [], [], 0)[0]:
            said = os.read(pipe, 256).decode("ascii", "replace")
            for line in said.splitlines():
                if line == _CONFINED.decode().strip():
                    self._confined = True
                elif not self._parent and line.removeprefix(_PARENT).isdecimal():
                    self._parent, self._since = int(line.removeprefix(_PARENT)) or os.getpid(), time.monotonic()
            if not said:
                os.close(pipe)
                self.pipes = []

    @property
    def is_over(self) -> bool:
        """Whether it must end: it took too much, which `status` then says, or its parent is gone."""
        wanted, begun = self._wanted, bool(self._parent)
        if begun and wanted.seconds and time.monotonic() - self._since > wanted.seconds:
            self.status = TOO_LONG
        elif self._confined and wanted.memory and memory_of(self._task) > wanted.memory << 20:
            self.status = TOO_MUCH
        return bool(self.status) or (begun and not _lives(self._parent))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
