"""Packages that a SuperNode on a small machine imports when it uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from oneflower_appliance.flower import internals, lean, main, places, supernode
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.lean import PACKAGES, UsedError, stand_ins
from oneflower_appliance.orders import EXECUTION_VARIABLE, PROFILE_VARIABLE

SMALL = {**os.environ, PROFILE_VARIABLE: "edge", EXECUTION_VARIABLE: "warm"}


def run(code):
    """Run code in another process, after what a SuperNode of a small machine has imported. Returns what it tells."""
    begin = "import json, sys\nfrom oneflower_appliance.flower import main\nmain._import('supernode')\n"
    program = begin + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=SMALL, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_supernode_starts_without_what_it_does_not_use():
    found = run(
        """
        from oneflower_appliance.flower.warm.node import WarmNode
        print(json.dumps(sorted(sys.modules)))
        """
    )
    assert "flwr.supernode.start_client_internal" in found
    assert not set(PACKAGES) & set(found)
    assert not [name for name in found if name.endswith("_pb2_grpc")]


def test_what_is_used_all_the_same_is_imported_then_and_works():
    found = run(
        """
        from flwr.app import Array
        from flwr.supercore import logger, utils
        from oneflower_appliance.flower.gaussian_mechanism import np
        before = "numpy" in sys.modules
        array = Array(np.arange(3.0))
        found = [before, array.numpy().tolist(), isinstance(np.arange(2), np.ndarray), np.float32 == np.dtype("f").type]
        try:
            utils.requests.get("http://127.0.0.1:1", timeout=1)
        except utils.requests.exceptions.RequestException as error:
            found.append(type(error).__name__)
        found.append(logger.Console(width=7).width)
        print(json.dumps(found))
        """
    )
    assert found == [False, [0.0, 1.0, 2.0], True, True, "ConnectionError", 7]


def test_grpc_is_not_imported_later_either():
    found = run(
        """
        from flwr.supercore import grpc
        try:
            grpc.create_channel("127.0.0.1:1", insecure=True)
        except RuntimeError as error:
            print(json.dumps([str(error), "grpc" in sys.modules]))
        """
    )
    assert found == ["grpc is used, which was put off (FL_PROFILE=edge).", False]


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(
        "class Base: pass\nclass Error(Exception): pass\ndef one(): return 1\n"
    )
    (tmp_path / "heavy" / "part.py").write_text("values = {'key': int}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean, "_STARTS", ("heavy.",))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def imported(code):
    found = {}
    with stand_ins():
        exec(code, found)  # noqa: S102 - the code of this test
    assert "heavy" not in sys.modules
    return found


def test_stand_ins_do_for_names_and_annotations_and_then_are_what_they_stand_for(package):
    found = imported(
        "import heavy, heavy.part as part\nfrom heavy import Base, one\nfrom heavy.part import values\n"
        "def f(a: Base | None, b: list[Base], c: None | Base, d: heavy.Error): pass\nkept = part.values['key']"
    )
    assert found["one"]() == found["heavy"].one() == 1
    assert isinstance(found["heavy"].Base(), found["Base"])
    assert found["values"]["key"] is found["part"].values["key"] is int
    assert sys.modules["heavy"].Base is type(found["Base"]())

    class Derived(found["Base"]):
        pass

    assert Derived.__mro__[1] is sys.modules["heavy"].Base
    assert found["Base"] | None == sys.modules["heavy"].Base | None
    with pytest.raises(AttributeError):
        found["heavy"].missing  # noqa: B018


@pytest.mark.parametrize("code", ["from heavy import one\none()", "import heavy\nheavy.Base.__name__"])
def test_more_cannot_be_done_with_them_while_things_are_imported(package, code):
    with pytest.raises((UsedError, AttributeError)):
        imported(code)
    assert imported("import heavy")["heavy"].one() == 1


def test_a_class_derived_from_a_stand_in_could_not_be_derived_again_when_its_package_is_imported(package, monkeypatch):
    code = "import heavy\nclass Derived(heavy.Base, heavy.Error): pass"
    with pytest.raises(UsedError, match="heavy is used, which was put off"):
        imported(code)
    monkeypatch.setattr(lean, "_STUBS", "heavy")
    with pytest.raises(UsedError, match="heavy is used, which was put off"):
        imported(code)["heavy"].one()


@pytest.mark.parametrize("reason", ["error", "no way to have a SuperExec of its own"])
def test_a_flower_that_needs_them_is_imported_whole_in_the_same_process(monkeypatch, reason, caplog):
    began = []

    class Replaced(BaseException):
        pass

    def execve(*arguments):
        began.append(arguments)
        raise Replaced

    def imports():
        if reason == "error":
            raise UsedError("grpc is used")

    monkeypatch.setenv(PROFILE_VARIABLE, "edge")
    monkeypatch.setattr(supernode, "imports", imports)
    monkeypatch.setattr(os, "execve", execve)
    if reason != "error":
        monkeypatch.setattr(internals.node_loop(), "_pull_and_store_message", lambda messages: messages)
        assert places.missing(Feature.SUPEREXEC_ON_DEMAND)
    with pytest.raises(Replaced):
        main._import("supernode")
    ((program, arguments, environment),) = began
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    assert "takes more memory" in caplog.text
    monkeypatch.setattr(supernode, "imports", lambda: None)
    monkeypatch.setattr(os, "environ", environment)
    assert main._import("supernode") is supernode
