"""Real processes try to get out of a confinement: by paths, children, threads, sockets, ptrace, signals and mounts."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import clientapp, confinement, kernel
from oneflower_appliance.flower.confinement import NOT_CONFINED, TOO_LONG, TOO_MUCH, WHY
from oneflower_appliance.flower.door import OwnDoor
from oneflower_appliance.flower.relay import COMES_FROM
from oneflower_appliance.flower.task_door import TaskDoor
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK
from oneflower_appliance.orders import PRIVACY_LEDGER, TASK_VARIABLE, Confinement
from oneflower_appliance.privacy_ledger import PrivacyLedger
from tests.unit.served import ADDRESS, Served

pytestmark = pytest.mark.e2e  # each forks processes with namespaces of their own

LIBC = ctypes.CDLL(None, use_errno=True)
HOST = "127.77.77.77"  # where the SuperNode serves its tasks


class Site:
    """A machine with a SuperNode: a process that listens, its key and policy, the node's data and the runs."""

    def __init__(self, folder):
        self.folder = folder
        self.runs, self.data, self.key = folder / "runs", folder / "data", folder / "node.key"
        self.policy = folder / "policy.toml"
        for path in (self.runs, self.data):
            path.mkdir()
        (self.data / "a.csv").write_text("1")
        self.key.write_text("secret")
        self.policy.write_text('apps = "ask"')
        self.server = socket.create_server((HOST, 0))
        self.address = self.server.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                while block := connection.recv(1 << 16):
                    connection.sendall(block)

    def more(self):
        """The descriptors that a confined task has and had not before: ways to its guard or its relay."""
        return descriptors() - self.known

    def said(self, **limits):
        return Confinement(self.address, (str(self.data),), (str(self.runs),), **limits).line()

    def inside(self, work, before=None, **limits):
        """Do `work` in a confined process. Return what it returns (JSON), and the exit status of its guard."""
        reading, writing = os.pipe()
        if not (pid := os.fork()):
            try:
                os.close(reading)
                os.environ[TASK_VARIABLE] = self.said(**{"egress": "none", "max_gpus": 0, **limits})
                if before:
                    before()
                self.known = descriptors()
                confinement.confine()
                confinement.begin()
                os.write(writing, json.dumps({"found": work()}, default=str).encode())
            except BaseException:  # noqa: BLE001 - it is told to the parent
                os.write(writing, json.dumps({"error": traceback.format_exc()}).encode())
            finally:
                os._exit(113)
        os.close(writing)
        with os.fdopen(reading) as stream:
            text = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = json.loads(text or "{}")
        assert "error" not in said, said.get("error")
        return said.get("found"), status


@pytest.fixture
def site(tmp_path):
    found = Site(tmp_path)
    yield found
    found.server.shutdown(socket.SHUT_RDWR)
    found.server.close()


def descriptors():
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {number for number in found if not failed(lambda number=number: os.fstat(number))}


def failed(action):
    """Return how an action failed, or None if it did not."""
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return None


def test_a_task_reaches_its_supernode_reads_its_data_and_writes_in_its_folder(site):
    def work():
        import numpy as np  # of the packages that it has

        with socket.create_connection(site.address) as connection:
            connection.sendall(bytes(3 << 20))
            count = 0
            while count < 3 << 20:
                count += len(connection.recv(1 << 20))
        (site.runs / "made").write_text("ok")
        done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
        return [count, (site.data / "a.csv").read_text(), done.stdout, float(np.ones(3).sum()), os.getpid()]

    assert site.inside(work) == ([3 << 20, "1", "42\n", 3.0, 1], 113)
    assert (site.runs / "made").read_text() == "ok"


def test_no_path_leads_to_the_key_the_policy_or_the_token_of_the_machine(site):
    (site.runs / "link").symlink_to(site.key)
    opened = os.open(site.folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(opened, True)
    ledger = PrivacyLedger(site.folder / PRIVACY_LEDGER)
    ledger.charge("7", 4.0)

    def work():
        failed(lambda: ledger.path.write_text("[]"))
        failed(ledger.path.unlink)
        places = [
            ledger.path, site.key, site.policy, site.runs / "link", site.runs / ".." / "node.key", f"/proc/self/root{site.key}",
            f"/proc/1/root{site.key}", f"/proc/{os.getppid()}/root{site.key}", f"/proc/self/fd/{opened}/node.key",
            f"/proc/1/cwd{site.key}", "/etc/shadow", "/etc/oneflower", "/run", "/var", "/root/.ssh",
        ]  # fmt: skip
        read = [str(place) for place in places if Path(place).exists()]
        copies = [
            failed(lambda: os.link(site.data / "a.csv", site.runs / "hard")),
            failed(lambda: os.open("key", 0, dir_fd=opened)),
        ]
        return read, copies

    (read, copies), _ = site.inside(work)
    os.close(opened)
    assert read == []
    assert all(copies)
    assert ledger.total() == 4.0, "what was spent stays spent"


def test_data_stay_as_they_are_whatever_a_task_tries(site):
    data = site.data / "a.csv"

    def as_root_of_another_namespace():
        kernel.leave_namespaces(network=False)
        writable = struct.pack("=QQQQ", 0, 1, 0, 0)
        for place in (site.data, "/"):
            LIBC.syscall(442, -100, str(place).encode(), 0x8000, writable, len(writable))
            LIBC.umount2(str(place).encode(), 2)

    def work():
        tries = [
            lambda: data.write_text("2"), data.unlink, (site.data / "b").touch, lambda: os.truncate(data, 0),
            lambda: data.chmod(0o777), lambda: data.rename(site.data / "c"), lambda: os.utime(data),
            lambda: os.open("/usr/lib/os-release", os.O_WRONLY),  # opened only: should it work, nothing is harmed
            lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
            kernel.own_mounts, lambda: kernel.memory_folder("/usr"),
            lambda: as_root_of_another_namespace() or data.write_text("2"),
            lambda: subprocess.run(["/bin/sh", "-c", f"echo 2 > {data}"], check=True, capture_output=True),
        ]  # fmt: skip
        results = []
        for one in tries:
            try:
                results.append(failed(one))
            except subprocess.CalledProcessError:
                results.append("refused")
        return results

    results, _ = site.inside(work)
    assert all(results), results
    assert data.read_text() == "1"


@pytest.mark.parametrize("where", ["thread", "child"])
def test_a_task_without_egress_connects_to_nobody_but_its_supernode(site, where):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    four = socket.create_server(("127.0.0.1", 0))
    unix, abstract = (socket.socket(socket.AF_UNIX) for _ in range(2))
    unix.bind(str(site.folder / "socket"))
    abstract.bind(f"\0oneflower-{os.getpid()}")
    for one in (unix, abstract):
        one.listen()

    def tries():
        sockets = [
            (socket.AF_INET, socket.SOCK_STREAM, four.getsockname()),
            (socket.AF_INET6, socket.SOCK_STREAM, six.getsockname()),
            (socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80)),
            (socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", site.address[1])),
            (socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
            (socket.AF_UNIX, socket.SOCK_STREAM, unix.getsockname()),
            (socket.AF_UNIX, socket.SOCK_STREAM, abstract.getsockname()),
        ]
        found = []
        for family, kind, address in sockets:
            with socket.socket(family, kind) as one:
                found.append(failed(lambda one=one, address=address: one.connect(address)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"data", udp.getsockname())  # arrives at nobody
        found += [
            failed(lambda family=family: socket.socket(family, socket.SOCK_STREAM)) for family in (40, 38)
        ]  # AF_VSOCK, AF_ALG
        found += [
            failed(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
            failed(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        ]
        return found

    def work():
        if where == "child":
            reading, writing = os.pipe()
            if not os.fork():
                os.write(writing, json.dumps(tries()).encode())
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as stream:
                return json.load(stream)
        found = []
        thread = threading.Thread(target=lambda: found.extend(tries()))
        thread.start()
        thread.join()
        return found

    found, _ = site.inside(work)
    assert len(found) == 11
    assert all(found), found
    udp.setblocking(False)
    with pytest.raises(BlockingIOError):
        udp.recv(10)
    for one in (udp, six, four, unix, abstract):
        one.close()


def test_a_task_can_neither_trace_nor_end_its_supernode_nor_its_guard(site):
    """The SuperNode is this process; the numbers of its processes mean nothing inside."""
    mine = os.getpid()

    def work():
        found = []
        for process in (mine, os.getppid(), *range(2, 40)):
            found.append(failed(lambda process=process: os.kill(process, signal.SIGKILL)) if process else "none")
            found.append(LIBC.ptrace(16, process, 0, 0) < 0)  # PTRACE_ATTACH
            found.append(failed(lambda process=process: Path(f"/proc/{process}/environ").read_bytes()))
        undone = LIBC.prctl(1, 0, 0, 0, 0), LIBC.syscall(425, 8, bytes(120)), LIBC.syscall(308, 0, 0)
        return [all(found), undone, sorted(site.more())]

    found, status = site.inside(work)
    assert (found, status) == ([True, [-1, -1, -1], []], 113), "PDEATHSIG, io_uring, setns"


def test_a_task_cannot_take_the_next_task_of_its_supernode_which_may_be_of_another_run(site):
    """Through the door of a SuperNode, also from a child, and from an address that the task chose."""

    async def app(scope, _receive, send):
        await PlainTextResponse("the token of a task")(scope, None, send)

    served = Served(OwnDoor(TaskDoor(app)), app)
    with served:
        site.address = (ADDRESS, served.control[1])
        url = f"http://{ADDRESS}:{served.control[1]}"

        def ask(path=ACQUIRE_TASK):
            return httpx.post(f"{url}{path}", trust_env=False).text

        def elsewhere():
            with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.1")) as client:
                return client.post(f"{url}{ACQUIRE_TASK}").text

        def in_child():
            code = f"import httpx; print(httpx.post('{url}{ACQUIRE_TASK}', trust_env=False).text)"
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout

        found, _ = site.inside(lambda: [ask(), in_child(), elsewhere(), ask("/v1/runtime/pull-task-input")])
        assert ["SuperExec" in text for text in found] == [True, True, True, False], found
        assert ask() == "the token of a task", "who is not confined"


def test_who_takes_too_long_is_ended_with_all_that_it_started(site):
    def work():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for number in site.more():  # its guard may read from it
            os.write(number, b"parent 1\n")
        if not os.fork():
            os.setsid()
            if not os.fork():
                while True:
                    (site.runs / "alive").write_text(str(time.time()))
            os._exit(0)
        time.sleep(60)

    found, status = site.inside(work, seconds=1)
    assert (found, status) == (None, TOO_LONG)
    last = (site.runs / "alive").read_text()
    assert not _mine(site.runs), "nothing of it lives"
    assert (site.runs / "alive").read_text() == last


def _mine(folder):
    """The processes that have a file open in a folder, or work there."""
    done = subprocess.run(
        ["find", "/proc", "-maxdepth", "3", "-lname", f"{folder}*"], capture_output=True, text=True, check=False
    )
    return [line for line in done.stdout.splitlines() if "/fd/" in line or line.endswith("/cwd")]


def test_who_takes_too_much_memory_is_ended_also_if_its_children_have_it(site):
    def work():
        if not os.fork():
            LIBC.unshare(0x30000000)  # a user and a process namespace, in which it might not be counted
            if os.fork():
                time.sleep(60)
            block = bytearray(200 << 20)
            time.sleep(60 + len(block) * 0)
        time.sleep(60)

    assert site.inside(work, memory=150) == (None, TOO_MUCH)


def test_a_task_has_few_connections_at_a_time_whose_buffers_are_not_its_own_memory(site):
    seen, marker = [], site.runs / "open"

    def work():
        found = [socket.create_connection(site.address) for _ in range(60)]
        marker.touch()
        while marker.exists():
            time.sleep(0.05)
        return len(found)

    def count():
        while not marker.exists():
            time.sleep(0.05)
        port = f":{site.address[1]:04X}"
        relays = struct.pack("<I", int.from_bytes(socket.inet_aton(COMES_FROM))).hex().upper()
        while not seen or seen[-1] < 32:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
            seen.append(sum(row[1].startswith(relays) and row[2].endswith(port) and row[3] == "01" for row in rows))
        marker.unlink()

    counting = threading.Thread(target=count)
    counting.start()
    found, _ = site.inside(work)
    counting.join()
    assert found == 60
    assert seen[-1] == 32


@pytest.mark.parametrize("where", ["memfd", "/tmp/x", "/dev/shm/x"])  # noqa: S108 - of the task's own root
def test_files_in_memory_count_and_nothing_else_in_memory_can_be_written(site, where):
    def work():
        others = [failed(lambda place=place: Path(place).write_bytes(b"1")) for place in ("/x", "/etc/x", "/dev/x")]
        others += [LIBC.syscall(number, 0, 100 << 20, 0o1600, 0, 0) < 0 for number in (29, 248, 249, 250, 321)]
        (site.runs / "others").write_text(json.dumps(others))
        file = os.memfd_create("x") if where == "memfd" else os.open(where, os.O_CREAT | os.O_WRONLY)
        for _ in range(19):  # less than the size of /tmp
            os.write(file, bytes(10 << 20))
        time.sleep(60)

    assert site.inside(work, memory=195) == (None, TOO_MUCH)
    assert all(json.loads((site.runs / "others").read_text())), "shmget, add_key, request_key, keyctl, bpf"


@pytest.mark.parametrize("how", ["prctl", "an orphan", "a program that nobody may read"])
def test_a_process_cannot_hide_from_being_measured(site, how):
    program = site.runs / "program"

    def work():
        if how == "prctl":
            assert LIBC.prctl(4, 0, 0, 0, 0) < 0  # PR_SET_DUMPABLE
            os._exit(7)
        elif how == "an orphan":
            if not os.fork():
                os.setsid()
                if not os.fork():
                    block = b"x" * (200 << 20)
                    time.sleep(60 + 0 * len(block))
                os._exit(0)
        else:
            shutil.copy("/bin/dd", program)
            program.chmod(0o111)
            subprocess.Popen(
                [program, "if=/dev/zero", "of=/dev/null", "bs=300M", "count=2000"], stderr=subprocess.DEVNULL
            )
        time.sleep(60)

    assert site.inside(work, memory=150) == (None, 7 if how == "prctl" else TOO_MUCH)


def test_where_stock_flower_starts_a_task_its_guard_leaves_word_of_why_it_ended_it(site, monkeypatch):
    """Flower's SuperExec does not know the reason; the SuperNode answers with it (`ended_tasks`)."""
    monkeypatch.setattr(sys, "argv", ["flwr-clientapp", "--token", "the token", "--parent-pid", str(os.getpid())])
    found = site.inside(lambda: time.sleep(60), seconds=1, ended=str(site.folder))
    assert found == (None, TOO_LONG)
    [word] = site.folder.glob("*.json")
    assert json.loads(word.read_text()) == {"token": "the token", "how": WHY[TOO_LONG]}
    assert word.stat().st_mode & 0o777 == 0o600


def test_a_task_ends_with_its_guard(site):
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.environ[TASK_VARIABLE] = site.said(egress="none")
        confinement.confine()
        os.write(writing, b"x")
        time.sleep(60)
    os.read(reading, 1)
    os.close(writing)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.read(reading, 1) == b"", "the last who had the pipe is gone"
    os.close(reading)


def test_flowers_command_for_a_task_confines_itself_first(site, monkeypatch):
    """So it is with both values of FL_EXECUTION: the first thing that the command does, before Flower's own."""

    def before():
        monkeypatch.setattr(confinement, "confine", lambda: None)  # the harness's own call
        monkeypatch.setattr(sys, "argv", ["flwr-clientapp", "--parent-pid", str(os.getpid())])
        command = clientapp.internals.clientapp_command()
        command.flwr_clientapp = lambda: os.environ.update(SEEN=f"{site.key.exists()} {os.getpid()} {sys.argv[-1]}")
        clientapp.main()

    found, status = site.inside(lambda: os.environ["SEEN"], before=before)
    assert (found, status) == ("False 1 1", 113)


def test_a_worker_is_confined_before_it_has_a_task_and_its_time_begins_with_the_task(site):
    """A framework that starts threads is imported in advance, in a worker that waits for its task."""
    environment = {**os.environ, TASK_VARIABLE: site.said(seconds=1, egress="none", max_gpus=0)}
    order = {"task_type": "flwr-clientapp", "suppress_output": False, "runtime_api_address": "{}:{}".format(*site.address),
             "token": "none", "parent_pid": os.getpid(), "insecure": True, "root_certificates_path": None}  # fmt: skip
    command = [sys.executable, "-P", "-m", "oneflower_appliance.flower.warm.tasks", "supernode"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        time.sleep(1.5)  # longer than the task may take: what is tested is that nothing happens
        assert worker.poll() is None
        _, said = worker.communicate(json.dumps(order) + "\n", timeout=60)
    assert "KeyboardInterrupt" not in said, "it does not look for a parent that it cannot see"
    assert worker.returncode in {1, TOO_LONG}, said  # this SuperNode only repeats what it hears


def test_where_tasks_cannot_be_confined_a_supernode_says_so_and_no_task_runs(site, monkeypatch):
    confinement.check(site.said(egress="none"))

    def refused(*, network):
        raise PermissionError(1, "no namespaces of its own")

    monkeypatch.setattr(kernel, "leave_namespaces", refused)
    with pytest.raises(OneflowerError, match="cannot confine tasks .* no namespaces of its own"):
        confinement.check(site.said())
    assert site.inside(lambda: "ran") == (None, NOT_CONFINED)
