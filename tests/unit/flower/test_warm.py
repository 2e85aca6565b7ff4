"""Warm execution: that the pinned Flower is what it counts on, and how tasks begin and end."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import httpx
import pytest
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.main import warm_superexec
from oneflower_appliance.flower.warm import shortcuts, tasks
from oneflower_appliance.flower.warm.direct import DirectCalls
from tests.unit.served import PROTOBUF
from tests.unit.signing import SuperNode

from . import test_linkstate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

fleet = test_linkstate.fleet  # a fixture


def test_where_it_cannot_be_had_stock_flower_runs_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setenv("ONEFLOWER_EXECUTION", "warm")
    monkeypatch.delattr("flwr.supernode.start_client_internal.subprocess")
    with caplog.at_level("WARNING", "flwr"):
        assert warm_superexec("supernode") is None
    assert "this release of Flower has no flwr.supernode.start_client_internal.subprocess." in caplog.text
    monkeypatch.setenv("ONEFLOWER_EXECUTION", "stock")
    assert warm_superexec("supernode") is None


def middleware(name):
    found = [layer.cls for layer in internals.superlink_application()._get_middleware() if layer.cls.__name__ == name]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, "/v1/fleet/push-object") for name in (*places.CONTROL_LAYERS, places.TRACING_LAYER)),
        *((name, "/v1/runtime/push-object") for name in (*places.CONTROL_LAYERS, *places.FLEET_LAYERS)),
    ],
)
def test_what_a_shortcut_leaves_out_would_have_done_nothing(name, path):
    """The real middlewares, with an application that would fail them if they looked at the request."""
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "app": SimpleNamespace(state=None)}
    answer = PlainTextResponse("x")

    async def call_next(request):
        assert request.url.path == path
        return answer

    layer = middleware(name)
    if layer is None:
        assert name == places.TRACING_LAYER, "the one that not every release has"
        return
    layer = layer(lambda *_: None)
    assert asyncio.run(layer.dispatch(Request(scope), call_next)) is answer


def test_shortcuts_keep_what_minds_their_own_path_and_everything_unknown():
    create_app = internals.superlink_application().create_app

    class Unknown:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)

    app = create_app()
    app.add_middleware(Unknown)
    before = list(app.user_middleware)

    def names(layer):
        found = []
        while layer := getattr(layer, "app", None):
            found.append(type(getattr(layer, "middleware", layer)).__name__)
        return found

    short = shortcuts.Shortcuts(app).paths
    assert app.user_middleware == before
    for prefix, mind in (("/v1/fleet/", "NodeAuthMiddleware"), ("/v1/runtime/", "ProtobufTranslationMiddleware")):
        kept = names(short[prefix])
        assert {"Unknown", "ProtobufTranslationMiddleware", mind} <= set(kept), kept
        assert not set(places.CONTROL_LAYERS) & set(kept)
        assert not isinstance(short[prefix], DirectCalls), "what is unknown may want to see a request"


def test_every_call_of_flowers_is_answered_directly(monkeypatch):
    kinds = internals.translation().PROTOBUF_REQUEST_TYPES
    link, node = (make().create_app() for make in (internals.superlink_application, internals.node_application))
    for app, prefixes in ((link, ("/v1/fleet/", "/v1/runtime/")), (node, ("/v1/runtime/",))):
        for prefix in prefixes:
            calls = shortcuts.Shortcuts(app).paths[prefix].calls
            assert set(calls) == {path for _, path in kinds if path.startswith(prefix)}
    monkeypatch.setenv("FLWR_TRACING_ENABLED", "1")
    calls = shortcuts.Shortcuts(node).paths["/v1/runtime/"].calls
    assert "/v1/runtime/get-nodes" in calls
    assert sum(path.startswith("/v1/runtime/") for _, path in kinds) - len(calls) <= 1, "what ends a trace is FastAPI's"


@pytest.mark.parametrize("body", [b"", b"\xff not valid", b"\x0a\x02\x08\x01"])
def test_an_answer_is_the_same_by_a_shortcut(body):
    app = internals.superlink_application().create_app()
    media = {"content-type": "application/protobuf"}
    asked = [("/v1/fleet/pull-messages", media), ("/v1/fleet/pull-messages", {}), ("/v1/fleet/activate-node", media),
             ("/v1/runtime/get-nodes", media), ("/v1/runtime/pull-object", media | {"flwr-task-token": "x"}),
             ("/v1/runtime/unknown", media), ("/v1/fleet/unknown", media)]  # fmt: skip

    async def answers(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            found = [await client.post(path, headers=headers, content=body) for path, headers in asked]
            return [(answer.status_code, sorted(answer.headers.items()), answer.content) for answer in found]

    ours, stock = asyncio.run(answers(shortcuts.Shortcuts(app))), asyncio.run(answers(app))
    assert ours == stock
    assert len({status for status, *_ in ours}) > 2, ours


def test_a_direct_answer_depends_on_token_signature_and_version_as_flowers_does(fleet):
    """The requests of a task and of a node, whole and with one thing wrong at a time."""
    app = internals.superlink_application().create_app()
    app.state.linkstate_factory = app.state.runtime_state_factory = SimpleNamespace(state=lambda: fleet.state)
    member, core = SuperNode(), internals.core_constants()
    node = fleet.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, member.key, 30)
    old = {core.FLWR_PACKAGE_NAME_METADATA_KEY: "flwr", core.FLWR_PACKAGE_VERSION_METADATA_KEY: "1.2.3",
           core.FLWR_COMPONENT_NAME_METADATA_KEY: "x"}  # fmt: skip
    task, mine, others = {core.TASK_TOKEN_HEADER: fleet.token}, Node(node_id=node), Node(node_id=fleet.node)
    asked = [  # what, headers, the request, and whether it is allowed
        ("/v1/runtime/get-nodes", task, None, True),
        ("/v1/runtime/get-nodes", {}, None, False),
        ("/v1/runtime/get-nodes", task | {core.TASK_TOKEN_HEADER: "x"}, None, False),
        ("/v1/runtime/get-nodes", [*task.items(), *task.items()], None, False),
        ("/v1/runtime/get-nodes", task | old, None, False),
        ("/v1/runtime/pull-messages", task, None, True),
        ("/v1/runtime/pull-object", task, PullObjectRequest(node=mine), False),
        ("/v1/fleet/pull-messages", member.headers(), PullMessagesRequest(node=mine), True),
        ("/v1/fleet/pull-messages", member.headers() | old, PullMessagesRequest(node=mine), True),
        ("/v1/fleet/pull-messages", member.headers(), PullMessagesRequest(node=others), False),
        ("/v1/fleet/pull-messages", member.headers(age=3600), PullMessagesRequest(node=mine), False),
        ("/v1/fleet/pull-messages", member.headers(signed="yesterday"), PullMessagesRequest(node=mine), False),
        ("/v1/fleet/pull-messages", {}, PullMessagesRequest(node=mine), False),
        ("/v1/fleet/pull-object", member.headers(), PullObjectRequest(node=mine, run_id=fleet.run + 1), False),
    ]

    async def answers(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            found = []
            for path, headers, body, _ in asked:
                pairs = headers if isinstance(headers, list) else [*headers.items()]
                content = body.SerializeToString() if body else b""
                found.append(await client.post(path, headers=[*pairs, *PROTOBUF.items()], content=content))
            return [(answer.status_code, sorted(answer.headers.items()), answer.content) for answer in found]

    ours, stock = asyncio.run(answers(shortcuts.Shortcuts(app))), asyncio.run(answers(app))
    for (path, headers, _, allowed), one, other in zip(asked, ours, stock, strict=True):
        assert one == other, (path, headers)
        assert (one[0] == 200) == allowed, (path, headers, one)


# ---- processes -----------------------------------------------------------------------------------------------------

PRELUDE = """
import importlib, json, os, socket, subprocess, sys, threading, time
from flwr.supercore.superexec.executor import ExecutionSpec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.constant import TaskType
from oneflower_appliance.flower.warm import tasks
from oneflower_appliance.flower.warm.watch import Reports

hearing, telling = os.pipe()
reports = Reports(telling)

def reported():
    # How each task ended, by its token, as far as it was reported up to now.
    os.set_blocking(hearing, False)
    events = [json.loads(line) for line in os.fdopen(os.dup(hearing)).read().splitlines()]
    tokens = {event["pid"]: event["token"] for event in events if "token" in event}
    return {tokens[event["pid"]]: event["how"] for event in events if "how" in event}

def spec(number, **values):
    return ExecutionSpec(**{
        "task_type": TaskType.CLIENT_APP, "runtime_api_address": "127.0.0.1:1", "token": f"secret-{number}",
        "insecure": True, "root_certificates_path": None, "runtime_dependency_install": False, "parent_pid": os.getpid(),
        "suppress_output": False, "task_id": number, **values})

def tell(**values):
    os.write(1, (json.dumps({"pid": os.getpid()} | values) + "\\n").encode())  # in one piece, even if others write

def reap(executor):
    launcher = executor.launcher
    while launcher.running:
        executor.reconcile()
        time.sleep(0.02)
"""


def run(script, **environment):
    """Run a script that has tasks of its own, and return what they told and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


@pytest.mark.e2e
def test_each_task_is_a_process_of_its_own_that_begins_clean_and_ends_with_its_task():
    told, errors = run("""
        import numpy, atexit
        from flwr.supercore.exit.exit_handler import registered_exit_handlers, add_exit_handler
        add_exit_handler(lambda: tell(what="handler of the parent"))
        ours, theirs = socket.socketpair()
        seen = []

        def task():
            seen.append(1)
            arguments = sys.argv
            try:
                os.fstat(ours.fileno())
                open_ = True
            except OSError:
                open_ = False
            atexit.register(lambda: tell(what="atexit"))
            line = open("/proc/self/cmdline").read()
            tell(what="task", seen=len(seen), handlers=len(registered_exit_handlers), socket=open_, argv=arguments,
                 number=int(numpy.random.randint(1 << 30)), name=open("/proc/self/comm").read().strip(),
                 secret=sys.argv[4] in line)
            sys.exit(3)

        tasks.COMMANDS["flwr-clientapp"] = task
        numpy.random.seed(1)
        executor = tasks.TaskExecutor(SubprocessExecutor(), "supernode", os.getpid(), reports)
        for number in (1, 2, 3):
            assert executor.launch(spec(number)).status == "accepted"
        reap(executor)
        tell(what="parent", launcher=type(executor.launcher).__name__, seen=len(seen))
    """)
    found = [line for line in told if line["what"] == "task"]
    parent = next(line for line in told if line["what"] == "parent")
    assert parent["launcher"] == "Fork"
    assert parent["seen"] == 0, "what a task does is not seen by its parent"
    assert len({line["pid"] for line in (*found, parent)}) == 4
    assert [line["seen"] for line in found] == [1, 1, 1], "nor by the next one"
    assert len({line["number"] for line in found}) == 3, "each has random numbers of its own"
    assert {line["handlers"] for line in found} == {0}
    assert {line["socket"] for line in found} == {False}
    assert {line["name"] for line in found} == {"flwr-clientapp"}
    assert {line["secret"] for line in found} == {False}, "the token is not on the command line"
    assert sorted(line["argv"][4] for line in found) == ["secret-1", "secret-2", "secret-3"]
    assert sum(line["what"] == "atexit" for line in told) == 3
    assert not any(line["what"] == "handler of the parent" for line in told), errors


@pytest.mark.e2e
def test_tasks_that_are_killed_silent_or_not_ours_and_what_many_of_them_cost_their_parent():
    told, errors = run("""
        def size():
            return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024

        def task():
            if "secret-1" in sys.argv:
                os.kill(os.getpid(), 9)
            tell(what=sys.argv[4], ballast=len([0] * 2_000_000))

        class Stock(SubprocessExecutor):
            def launch(self, spec):
                tell(what=f"stock {spec.task_id}")

        tasks.COMMANDS["flwr-clientapp"] = task
        executor = tasks.TaskExecutor(Stock(), "supernode", os.getpid(), reports)
        executor.launch(spec(2, suppress_output=True))
        executor.launch(spec(3, task_type=TaskType.AGENT_APP))
        executor.launch(spec(4, runtime_dependency_install=True))
        sizes = []
        for number in (1, *range(5, 25)):
            executor.launch(spec(number))
            reap(executor)
            sizes.append(size())
        tell(what="sizes", grown=sizes[-1] - sizes[4], reported=reported())
    """)
    names = [line["what"] for line in told]
    assert [name for name in names if name.startswith("secret")] == [f"secret-{n}" for n in range(5, 25)]
    ends = told[-1]["reported"]
    assert ends.pop("secret-1") == "was ended by signal 9", errors
    assert ends == {f"secret-{n}": "" for n in (2, *range(5, 25))}
    assert [name for name in names if name.startswith("stock")] == ["stock 3", "stock 4"]
    assert told[-1]["grown"] <= 3, "MB"


@pytest.mark.e2e
def test_the_end_of_a_task_is_reported_at_once_and_one_that_ends_itself_is_no_good_end():
    told, errors = run("""
        def task():
            if "secret-2" in sys.argv:
                os._exit(0)

        tasks.COMMANDS["flwr-clientapp"] = task
        executor = tasks.TaskExecutor(SubprocessExecutor(), "supernode", os.getpid(), reports)
        for number in (1, 2):
            executor.launch(spec(number))
        found, deadline = {}, time.monotonic() + 20
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)  # no task is reaped here but by the signal
            if not executor.launcher.running:
                found = reported()
        tell(reported=found)
    """)
    assert told[-1]["reported"] == {"secret-1": "", "secret-2": "ended with exit status 0"}, errors


@pytest.mark.parametrize(
    "leave", [lambda reports: os.close(reports.pipe), lambda reports: reports.left()], ids=["end", "another"]
)
def test_a_watch_tells_of_tasks_that_died_of_those_whose_superexec_died_and_ends_the_rest(leave):
    from oneflower_appliance.flower.warm.watch import DONE, Reports, TaskWatch

    deaths, told = queue.Queue(), []
    watch = TaskWatch()
    watch.on_death = lambda token, how: deaths.put((token, how))
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(4)]
    killed, done, orphan, stubborn = sleepers
    try:
        for batch in ((killed, done, orphan), (stubborn,)):
            hearing, telling = os.pipe()
            watch.listen(hearing)
            reports = Reports(telling)
            for sleeper in batch:
                reports.began(sleeper.pid, f"token-{sleeper.pid}")
            if killed in batch:
                reports.ended(done.pid, DONE)
                reports.ended(killed.pid, -9)
                told.append(deaths.get(timeout=10))
                leave(reports)
                orphan.kill()
                told.append(deaths.get(timeout=10))
        assert told == [(f"token-{killed.pid}", "was ended by signal 9"), (f"token-{orphan.pid}", "ended early")]
        wait_until(lambda: watch.tokens == {stubborn.pid: f"token-{stubborn.pid}"})
        watch.end_all()
        assert stubborn.wait(10) == -15
        assert done.poll() is None
        assert deaths.empty()
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.e2e
def test_beside_a_thread_that_stays_no_task_is_forked():
    """It may hold a lock that nobody would ever open in the child."""
    told, errors = run("""
        stock = type("Stock", (SubprocessExecutor,), {"launch": lambda self, spec: tell(what="stock")})
        executor = tasks.TaskExecutor(stock(), "supernode", os.getpid(), reports)
        lock = threading.Lock()
        lock.acquire()
        threading.Thread(target=lock.acquire, name="sitter", daemon=True).start()
        executor.launch(spec(1))
        os._exit(0)
    """)
    assert [line["what"] for line in told] == ["stock"]
    assert "a fork beside the thread sitter may hang" in errors


@pytest.mark.e2e
def test_a_library_that_starts_a_thread_when_it_is_imported_gets_workers():
    told, _ = run("""
        def starts_a_thread(role):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

        tasks.preload = starts_a_thread
        tell(what=type(tasks.launcher("supernode", reports)).__name__)
        os._exit(0)
    """)
    assert told[0]["what"] == "Workers"


@pytest.mark.e2e
def test_a_framework_that_does_not_survive_a_fork_gets_workers():
    told, errors = run(
        """
        executor = tasks.TaskExecutor(SubprocessExecutor(), "supernode", os.getpid(), reports)
        workers = executor.launcher
        tell(what=type(workers).__name__)
        workers.waiting = subprocess.Popen(["true"], stdin=subprocess.PIPE, text=True)
        workers.waiting.wait()
        executor.launch(spec(7))
        worker, name = workers.running[0], ""
        while name != "flwr-clientapp":
            name = open(f"/proc/{worker.pid}/comm").read().strip()
            time.sleep(0.02)
        worker.kill()
        reap(executor)
        tell(waiting=workers.waiting.poll() is None, another=workers.waiting.pid != worker.pid, reported=reported())
        workers.waiting.kill()
        """,
        ONEFLOWER_FRAMEWORK="tensorflow",
    )
    assert told[0]["what"] == "Workers"
    assert told[1]["waiting"], errors
    assert told[1]["another"]
    assert told[1]["reported"] == {"secret-7": "was ended by signal 9"}


@pytest.mark.e2e
def test_a_superexec_that_dies_is_replaced_by_a_fork_of_the_process_behind_it_or_by_a_program():
    told, errors = run(
        """
        import signal
        from oneflower_appliance.flower.warm import superexec

        def superexec_of(behind, not_this=0):
            # The fork that is the SuperExec now, when it has its name.
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                children = open(f"/proc/{behind}/task/{behind}/children").read().split()
                if children and children != [str(not_this)]:
                    if open(f"/proc/{children[0]}/comm").read() == "flower-superexe\\n":
                        return int(children[0])
                time.sleep(0.02)

        executable = superexec.WarmSuperExec("supernode")
        executable.start(["flower-superexec", "--insecure", "--runtime-api-address", "127.0.0.1:1"])
        for kill_behind in (False, False, True):
            behind, killed = executable.pid, superexec_of(executable.pid)
            pidfd = os.pidfd_open(killed)
            os.kill(behind if kill_behind else killed, signal.SIGKILL)
            ended = importlib.import_module("select").select([pidfd], [], [], 20)[0] == [pidfd]
            deadline = time.monotonic() + 20
            while kill_behind and executable.pid == behind and time.monotonic() < deadline:
                time.sleep(0.02)
            now = superexec_of(executable.pid, killed)
            tell(ended=ended, another=bool(now), behind=executable.pid == behind)
        pidfd = os.pidfd_open(now)
        executable.terminate()
        tell(ended=importlib.import_module("select").select([pidfd], [], [], 20)[0] == [pidfd])
        """
    )
    same, another = {"ended": True, "another": True, "behind": True}, {"ended": True, "another": True, "behind": False}
    assert [{key: one[key] for key in same} for one in told[:3]] == [same, same, another], errors
    assert told[3]["ended"]
    assert errors.count("The SuperExec ended; it is started again") == 3


def test_what_a_task_needed_is_imported_while_no_task_is_running():
    imported = []
    on_demand = SimpleNamespace(import_if_needed=lambda: imported.append("now"))
    launched = SimpleNamespace(busy=True, reap=lambda: None, on_demand=on_demand)
    executor = tasks.TaskExecutor(SimpleNamespace(reconcile=lambda: None), "superlink", 1, None)
    executor.reconcile()
    executor.launcher = launched  # the first task was started
    executor.reconcile()
    assert imported == []
    launched.busy = False
    executor.reconcile()
    assert imported == ["now"]
