"""Names of Flower are taken away, one at a time: one feature is off each time, the others stay, and one line says so.

Each process is prepared as it really is, in a fork, so that what it replaces in Flower is gone with it.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import socket
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette

from oneflower_appliance import features_off
from oneflower_appliance.agent.journal import Journal, read_status
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.shortfalls import Shortfalls
from oneflower_appliance.attributes import FEATURES_OFF
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import (
    clientapp,
    internals,
    lifesigns,
    main,
    nodereport,
    places,
    serverapp,
    superlink,
    supernode,
)
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.legacy import hooks
from oneflower_appliance.flower.warm import downloads, pulse, whole_client
from oneflower_appliance.orders import SuperLinkOrders, SuperNodeOrders
from oneflower_appliance.settings import resolve

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database

ALL = sorted({place for found in places.PLACES.values() for place in found}, key=str)
REQUIRED = {Feature.FRONT_DOOR, Feature.NODE_DOOR, Feature.NODE_ID, Feature.SITE_POLICY}
IN_SUPERLINK = (
    Feature.FRONT_DOOR, Feature.API, Feature.FORGET_LOST_DELIVERIES, Feature.STUCK_NODES, Feature.RETENTION,
    Feature.WARM_SUPERLINK, Feature.LIMIT_TASK_CLEANUP, Feature.DEAD_SERVERAPPS, Feature.HELD_QUESTIONS,
    Feature.SHORTCUTS, Feature.LOG_LEVEL, Feature.OBJECT_STORE, Feature.BUNDLES, Feature.SUPERLINK_BUNDLES,
    Feature.HEARTBEATS, Feature.WHOLE_MESSAGES, Feature.WORK, Feature.SITE_CHOICE, Feature.LEAVING,
)  # fmt: skip
IN_SUPERNODE = (
    Feature.NODE_DOOR, Feature.NODE_ID, Feature.HEARTBEAT_REPORT, Feature.ANSWER_IN_TURN, Feature.FORGET_ENDED_RUNS,
    Feature.CLOSE_SESSION, Feature.WARM_SUPERNODE,
    Feature.DEAD_CLIENTAPPS, Feature.NODE_QUESTIONS, Feature.END_WITH_RUN, Feature.HELD_QUESTIONS, Feature.LOG_LEVEL,
    Feature.BUNDLES, Feature.DOWNLOADS, Feature.SPARED_HEARTBEATS, Feature.WHOLE_MESSAGES, Feature.WHOLE_REPLIES,
    Feature.DRAINING, Feature.KEY_ORDER,
)  # fmt: skip


def users(place):
    """The features that stand on a place. One that stands on a parameter stands on its function, too."""
    return {
        feature
        for feature, found in places.PLACES.items()
        if any(
            one == place or ((one.owner, one.name) == (place.owner, place.name) and not place.parameter)
            for one in found
        )
    }


def take_away(monkeypatch, place):
    """Make Flower look like a release without a name."""
    owner = place.owner()
    if place.parameter:
        stock = getattr(owner, place.name)
        signature = inspect.signature(stock)
        left = [parameter for name, parameter in signature.parameters.items() if name != place.parameter]
        other = functools.wraps(stock)(lambda *args, **kwargs: stock(*args, **kwargs))  # noqa: PLW0108 - another object
        other.__signature__ = signature.replace(parameters=left)
        monkeypatch.setattr(owner, place.name, other)
    elif isinstance(owner, type) and issubclass(owner, int):
        hide(monkeypatch, place)  # a member of an enumeration cannot be deleted
    elif isinstance(owner, type) or inspect.ismodule(owner):
        for kind in owner.__mro__ if isinstance(owner, type) else (owner,):
            if kind is not object and place.name in vars(kind):
                monkeypatch.delattr(kind, place.name)
    else:
        hide(monkeypatch, place)


def hide(monkeypatch, place):
    """Make an object, which is created again each time, lack a name."""

    def without():
        found = stock()
        return SimpleNamespace(
            **{name: getattr(found, name) for name in dir(found) if name[:2] != "__" and name != place.name}
        )

    stock = place.owner
    without.__name__ = stock.__name__
    for feature, found in places.PLACES.items():
        changed = tuple(places.Place(without, one.name, one.parameter) if one.owner is stock else one for one in found)
        monkeypatch.setitem(places.PLACES, feature, changed)


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(places, "said", set())


def test_the_flower_installed_here_has_every_name():
    assert set(places.PLACES) == set(Feature)
    assert {feature: places.missing(feature) for feature in Feature if places.missing(feature)} == {}


@pytest.mark.parametrize("place", ALL, ids=str)
def test_without_a_name_what_stands_on_it_is_off_the_rest_is_on_and_a_line_says_so(place, monkeypatch, caplog):
    off = users(place)
    for feature in Feature:  # imported before, so that nothing is imported from a release that has lost a name
        assert places.have(feature)
    take_away(monkeypatch, place)
    caplog.clear()
    with caplog.at_level("WARNING", "flwr"):
        for _ in range(2):
            assert {feature for feature in Feature if not places.have(feature)} == off
    assert len(caplog.messages) == len(off)
    for feature in off:
        [line] = [line for line in caplog.messages if line.startswith(f"{feature.value} ")]
        assert line.endswith(f".{place.name}." if not place.parameter else f".{place.name}({place.parameter}).") or any(
            line.endswith(f".{place.name}({one.parameter}).") for one in places.PLACES[feature] if one.parameter
        )
    for feature in off & REQUIRED:
        with pytest.raises(OneflowerError, match="would not be safe"):
            places.demand(feature)


def test_a_feature_that_is_off_is_in_the_status_file_published_and_shown(monkeypatch, tmp_path, caplog):
    journal = Journal("supernode", tmp_path / "status.json")
    journal.ready()
    shortfalls = Shortfalls(Machine(tmp_path, {}, resolve({}), journal, None))
    monkeypatch.setenv(features_off.FOLDER_VARIABLE, str(shortfalls.forget()))
    assert places.have(Feature.SHORTCUTS)
    assert shortfalls.look() == {"FL_FEATURES_OFF": "-"}
    monkeypatch.delattr(internals.node_authentication(), "NodeAuthMiddleware")
    with caplog.at_level("WARNING"):
        assert not places.have(Feature.SHORTCUTS)
        published = shortfalls.look()
        monkeypatch.setattr(places, "said", set())  # as in another process of this machine
        assert not places.have(Feature.SHORTCUTS)
    line = places.sentence(Feature.SHORTCUTS, places.missing(Feature.SHORTCUTS))
    assert line.endswith(
        "is off, because this release of Flower has no flwr.superlink.routers.fleet.node_auth.NodeAuthMiddleware."
    )
    assert caplog.messages == [line], "one line in the log"
    said = read_status(tmp_path)
    assert (said["health"], said["causes"]) == ("degraded", [line])
    assert FEATURES_OFF.read(published) == line
    shortfalls.forget()
    assert shortfalls.look() == {"FL_FEATURES_OFF": "-"}
    assert read_status(tmp_path)["health"] == "done", "the next process has not said so"


def test_a_report_that_cannot_be_written_leaves_the_line_in_the_log(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv(features_off.FOLDER_VARIABLE, str(tmp_path / "file" / "folder"))
    monkeypatch.delattr(internals.node_authentication(), "NodeAuthMiddleware")
    assert not places.have(Feature.SHORTCUTS)
    assert len(caplog.messages) == 1


def test_a_module_that_is_gone_is_a_missing_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flwr.supernode.fleet_http_client", None)
    assert places.missing(Feature.CLOSE_SESSION) == "fleet_client.from_server_address"


# ---- the processes -------------------------------------------------------------------------------------------------


class Stub:
    """A warm SuperExec that notes where it was put."""

    def __init__(self):
        self.tasks = SimpleNamespace(on_death=None, end_all=None)
        self.modules = []

    def replace_in(self, module):
        self.modules.append(module.__name__)


def in_fork(work):
    """Do `work` in a fork, and return what it returns: JSON."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        status = 1
        try:
            os.close(reading)
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - it is told to the parent
            os.write(writing, json.dumps({"error": traceback.format_exc()}).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        found = json.loads(stream.read())
    os.waitpid(pid, 0)
    assert "error" not in found, found["error"]
    return found


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def prepared_superlink(folder):
    """Start a SuperLink up to the moment at which it would listen, and return how it then is.

    Flower's own command is not run, for it may need the name that was taken away.
    """
    stub, served = Stub(), []
    command, states = internals.superlink_command(), internals.link_state()
    cleanup = getattr(internals.core_state(), "_cleanup_expired_task_tokens", None)
    activate = getattr(states, "activate_node", None)
    store = getattr(internals.object_stores(), "store", None)
    app = Starlette()
    app.state.linkstate_factory = SimpleNamespace(state=lambda: SimpleNamespace(get_run_info=list))
    app.state.enable_supernode_auth = False

    class Server:
        def __init__(self, config, entrances, on_exit):
            served.extend(entrances)

        def run(self):
            """Return at once."""

    superlink.Server = Server
    superlink.OwnDoor = lambda flower, status: SimpleNamespace(flower=flower, status=status)
    if hasattr(command, "flower_superlink"):
        command.flower_superlink = lambda: command.uvicorn.run(app=app, host="127.0.0.1", port=1)
    ports = ("127.0.0.1", port()), ("127.0.0.1", port())
    orders = SuperLinkOrders(*ports, folder / "state.db", folder / "runs", None, authenticate=False)
    try:
        main.set_log_level()
        warm = stub if places.have(Feature.WARM_SUPERLINK) else None
        superlink.SuperLink(orders, warm).run()
    except OneflowerError as error:
        return {"refused": error.sentence, "listens": bool(served)}
    own = served[0].app._app  # within what records in the audit log
    flower = below = own.flower._app  # within what rings for news
    layers = []
    while below := getattr(below, "_app", None):
        layers.append(type(below).__name__)
    return {
        "doors": len(served),
        "warm": stub.modules,
        "forgets": getattr(states, "activate_node", None) is not activate,
        "cleans less": getattr(internals.core_state(), "_cleanup_expired_task_tokens", None) is not cleanup,
        "watches": stub.tasks.on_death is not None,
        "api": type(own.status).__name__ == "Starlette",
        "holds": type(flower).__name__ == "LongPoll",
        "bundles": "BundleServer" in layers,
        "whole": "WholeServer" in layers,
        "records": getattr(flower, "heartbeats", None) is not None,
        "looks": getattr(flower, "_work", None) is not None,
        "keeps": getattr(internals.object_stores(), "store", None) is not store,
    }


SUPERLINK = {
    Feature.WARM_SUPERLINK: {
        "warm": [],
        "watches": False,
        "cleans less": False,
        "holds": False,
        "bundles": False,
        "whole": False,
        "keeps": False,
        "records": False,
        "looks": False,
    },
    Feature.FORGET_LOST_DELIVERIES: {"forgets": False},
    Feature.LIMIT_TASK_CLEANUP: {"cleans less": False},
    Feature.DEAD_SERVERAPPS: {"watches": False},
    Feature.API: {"api": False, "watches": False, "looks": False},
    Feature.HELD_QUESTIONS: {"holds": False, "bundles": False, "whole": False, "records": False, "looks": False},
    Feature.HEARTBEATS: {"records": False},
    Feature.WORK: {"looks": False},
    Feature.OBJECT_STORE: {"keeps": False, "bundles": False, "whole": False},
    Feature.BUNDLES: {"bundles": False, "whole": False},
    Feature.SUPERLINK_BUNDLES: {"bundles": False, "whole": False},
    Feature.WHOLE_MESSAGES: {"whole": False},
}


@pytest.mark.parametrize("place", [p for p in ALL if users(p) & set(IN_SUPERLINK)], ids=str)
def test_a_superlink_starts_without_a_name_or_refuses_to(place, monkeypatch, tmp_path):
    off = users(place)

    def work():
        superlink.imports()
        for feature in IN_SUPERLINK:
            places.have(feature)
        take_away(monkeypatch, place)
        return prepared_superlink(tmp_path)

    found = in_fork(work)
    if Feature.FRONT_DOOR in off:
        assert place.name in found["refused"]
        assert not found["listens"]
        return
    whole = {"doors": 2, "warm": ["flwr.superlink.cli.flower_superlink"], "forgets": True, "cleans less": True,
             "watches": True, "api": True, "holds": True, "bundles": True, "whole": True, "keeps": True,
             "records": True, "looks": True}  # fmt: skip
    for feature in off:
        whole |= SUPERLINK.get(feature, {})
    assert found == whole


def sources(function):
    """Return the files of a function and of all that it wraps."""
    found = set()
    while function is not None:
        found.add(function.__code__.co_filename)
        function = getattr(function, "__wrapped__", None)
    return found


def prepared_supernode(policy=""):
    loop, command = internals.node_loop(), internals.supernode_command()
    before = {name: getattr(loop, name, None) for name in ("_pull_and_store_message", "_push_messages", "pull_objects")}
    stock, stub = getattr(command, "uvicorn", None), Stub()
    ran = []
    if hasattr(command, "flower_supernode"):
        command.flower_supernode = lambda: ran.append(command.uvicorn is not stock)
    warm = stub if places.have(Feature.WARM_SUPERNODE) else None
    client = internals.fleet_client()
    pull = getattr(client, "PullMessages", None)
    orders = SuperNodeOrders("127.0.0.1:1", ("127.0.0.1", 1), None, None, Path("/nowhere/report"), policy=policy)
    try:
        supernode.run(orders.line(), warm)
    except OneflowerError as error:
        return {"refused": error.sentence, "ran": ran}

    def layers(name):
        found, count = getattr(loop, name, None), 0
        while found is not None and found is not before[name]:
            found, count = getattr(found, "__wrapped__", None), count + 1
        return count

    return {
        "guarded": ran,
        "warm": stub.modules,
        "watches": stub.tasks.on_death is not None,
        "pull": layers("_pull_and_store_message"),
        "push": layers("_push_messages"),
        "bundles": layers("pull_objects"),
        "reports": [
            nodereport.__file__ in sources(getattr(client, "SendNodeHeartbeat", None)),
            getattr(client, "PullMessages", None) is not pull,
        ],
        "spares": pulse.__file__ in sources(getattr(client, "SendNodeHeartbeat", None)),
        "whole": internals.fleet_client()._unary_unary.__code__.co_filename == whole_client.__file__,
        "downloads": downloads.__file__ in sources(internals.fleet_client().__init__),
        "holds": type(loop.time).__name__ == "_Clock" if hasattr(loop, "time") else False,
    }


# What each feature puts around the loop's two functions, and else.
SUPERNODE = {
    Feature.HEARTBEAT_REPORT: (0, 0, {"reports": [False, False]}),
    Feature.ANSWER_IN_TURN: (1, 1, {}),
    Feature.DRAINING: (1, 0, {}),
    Feature.FORGET_ENDED_RUNS: (1, 0, {}),
    Feature.NODE_QUESTIONS: (1, 0, {"holds": False, "spares": False}),
    Feature.HELD_QUESTIONS: (1, 0, {"holds": False, "spares": False}),
    Feature.SPARED_HEARTBEATS: (0, 0, {"spares": False}),
    Feature.DEAD_CLIENTAPPS: (1, 0, {"watches": False}),
    Feature.END_WITH_RUN: (1, 1, {}),
    Feature.BUNDLES: (0, 0, {"bundles": 0, "downloads": False, "whole": False}),
    Feature.WHOLE_MESSAGES: (0, 0, {"whole": False}),
    Feature.WHOLE_REPLIES: (0, 1, {}),
    Feature.DOWNLOADS: (0, 0, {"downloads": False}),
}
WARM = {Feature.NODE_QUESTIONS, Feature.HELD_QUESTIONS, Feature.DEAD_CLIENTAPPS, Feature.END_WITH_RUN, Feature.BUNDLES,
        Feature.WHOLE_MESSAGES, Feature.WHOLE_REPLIES}  # fmt: skip


@pytest.mark.parametrize("place", [p for p in ALL if users(p) & set(IN_SUPERNODE)], ids=str)
def test_a_supernode_starts_without_a_name_or_refuses_to(place, monkeypatch):
    off = users(place) & set(IN_SUPERNODE)

    def work():
        supernode.imports()
        for feature in IN_SUPERNODE:
            places.have(feature)
        take_away(monkeypatch, place)
        return prepared_supernode()

    found = in_fork(work)
    if off & REQUIRED:
        assert place.name in found["refused"]
        assert found["ran"] == []
        return
    whole = {"guarded": [True], "warm": ["flwr.supernode.start_client_internal"], "watches": True, "holds": True,
             "bundles": 1, "downloads": True, "whole": True, "reports": [True, True], "spares": True}  # fmt: skip
    if Feature.WARM_SUPERNODE in off:
        whole |= {"warm": [], "watches": False, "holds": False, "bundles": 0, "downloads": False, "whole": False,
                  "spares": False}  # fmt: skip
        off |= WARM
    if {Feature.BUNDLES, Feature.WHOLE_MESSAGES} & off:
        off |= {Feature.WHOLE_REPLIES}
    if {Feature.NODE_QUESTIONS, Feature.HELD_QUESTIONS} <= off:
        off -= {Feature.HELD_QUESTIONS}
    on = [wraps for feature, wraps in SUPERNODE.items() if feature not in off]
    if not {Feature.NODE_QUESTIONS, Feature.HELD_QUESTIONS} & off:
        on.remove(SUPERNODE[Feature.HELD_QUESTIONS])  # the two are one change
    elif Feature.NODE_QUESTIONS in off:
        on = [wraps for feature, wraps in SUPERNODE.items() if feature not in off | {Feature.HELD_QUESTIONS}]
    else:
        on.remove(SUPERNODE[Feature.NODE_QUESTIONS])
    for feature in off:
        whole |= SUPERNODE.get(feature, (0, 0, {}))[2]
    assert found == whole | {"pull": sum(one[0] for one in on), "push": sum(one[1] for one in on)}


@pytest.mark.parametrize("place", places.PLACES[Feature.SITE_POLICY], ids=str)
def test_a_supernode_that_could_not_keep_to_the_policy_of_its_site_does_not_start(place, monkeypatch):
    def work():
        supernode.imports()
        for feature in IN_SUPERNODE:
            places.have(feature)
        take_away(monkeypatch, place)
        return prepared_supernode('apps = "ask"')

    found = in_fork(work)
    assert place.name in found["refused"]
    assert found["ran"] == []


def test_without_the_api_a_superlink_says_so_to_who_asks(monkeypatch):
    monkeypatch.delattr(internals.control_handlers(), "start_run")
    answer = superlink.no_api()
    assert answer.status_code == 501
    assert b"has no flwr.superlink.servicer.control.control_handlers.start_run." in answer.body


@pytest.mark.parametrize("task", [serverapp, clientapp], ids=["serverapp", "clientapp"])
def test_where_the_command_of_a_task_is_gone_flowers_own_is_run(task, monkeypatch):
    command = {serverapp: internals.serverapp_command, clientapp: internals.clientapp_command}[task]()
    monkeypatch.delattr(command, task.NAME.replace("-", "_"))
    ran = []

    class Replaced(BaseException):
        pass

    def execv(path, arguments):
        ran.append((path, arguments))
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr("sys.argv", [f"/somewhere/{task.NAME}", "--token", "x"])
    with pytest.raises(Replaced):
        task.main()
    assert ran == [(Path(os.sys.executable).with_name(task.NAME), [task.NAME, "--token", "x"])]


@pytest.mark.parametrize(
    ("task", "feature", "works_in"),
    [
        (serverapp, Feature.SERVERAPP_FOLDER, "serverapp_works_in"),
        (clientapp, Feature.CLIENTAPP_FOLDER, "clientapp_works_in"),
        (serverapp, Feature.SUPERVISED_LEGACY_APP, "supervise_legacy"),
        (serverapp, Feature.MESSAGE_COUNTS, "count_messages"),
        (serverapp, Feature.SERVERAPP_PACKAGES, "find_packages_in"),
        (clientapp, Feature.CLIENTAPP_PACKAGES, "find_packages_in"),
    ],
)
def test_without_a_name_a_task_runs_as_flower_starts_it(task, feature, works_in, monkeypatch, tmp_path):
    called = []
    monkeypatch.setenv("ONEFLOWER_RUNS", str(tmp_path))
    monkeypatch.setenv("ONEFLOWER_APP_PACKAGES", str(tmp_path))
    owners = {"supervise_legacy": hooks, "count_messages": lifesigns}
    for name in (
        "serverapp_works_in", "clientapp_works_in", "supervise_legacy", "count_messages", "find_packages_in",
    ):  # fmt: skip
        if hasattr(owners.get(name, task), name):
            monkeypatch.setattr(owners.get(name, task), name, lambda *_: None)
    monkeypatch.setattr(owners.get(works_in, task), works_in, lambda runs, *_: called.append(runs))
    monkeypatch.setattr("oneflower_appliance.training.supervisor.supervise", lambda *_: None)
    command = {serverapp: internals.serverapp_command, clientapp: internals.clientapp_command}[task]()
    monkeypatch.setattr(command, task.NAME.replace("-", "_"), lambda: called.append("ran"))
    monkeypatch.setattr("sys.argv", [task.NAME])
    task.main()
    assert called == [tmp_path, "ran"]
    for place in places.PLACES[feature]:
        with monkeypatch.context() as patch:
            called.clear()
            take_away(patch, place)
            task.main()
            assert called == ["ran"]
