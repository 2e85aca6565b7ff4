"""Packages for one app on top of a runtime, with a uv that answers from a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneflower.runtimes import app_packages
from oneflower.runtimes.app_packages import AppPackages, installed_for_apps
from oneflower.runtimes.runtime import Runtime
from oneflower_appliance.app_packages import Choice, Declaration, packages_of
from oneflower_appliance.errors import OneflowerError

DECLARED = Declaration("digits", ("flwr>=1.41", "tiny<2"))
TINY, SMALL = "tiny==1.0 \\\n    --hash=sha256:aa", "small==3.1 \\\n    --hash=sha256:bb"
NUMPY = "numpy==2.3.5 \\\n    --hash=sha256:cc"


class FakeUv:
    """Answers `compile` and `export` with lists, and `install` with empty packages."""

    def __init__(self):
        self.resolved = self.exported = ""
        self.calls, self.seen = [], {}

    def __call__(self, folder, what, hint):
        def call(*arguments):
            self.calls.append(arguments)
            self.seen |= {(arguments[0], path.name): path.read_text() for path in folder.iterdir() if path.is_file()}
            if arguments[0] == "export":
                return self.exported
            if arguments[1] == "compile":
                if not self.resolved:
                    raise OneflowerError(f"Cannot {what}: there is none.", hint)
                return self.resolved
            target = Path(arguments[arguments.index("--target") + 1])
            for name, release in re.findall(r"^([a-z]+)==(\S+)", (folder / "list.txt").read_text(), re.MULTILINE):
                (target / f"{name}-{release}.dist-info").mkdir()
            return ""

        return call


@pytest.fixture
def uv(monkeypatch):
    fake = FakeUv()
    monkeypatch.setattr(app_packages, "Uv", fake)
    return fake


@pytest.fixture
def runtime(tmp_path):
    for name in ("flwr-1.42.0", "numpy-2.3.5"):
        (tmp_path / "runtimes" / "flwr-x" / "lib" / "python3" / "site-packages" / f"{name}.dist-info").mkdir(
            parents=True
        )
    return Runtime(tmp_path / "runtimes" / "flwr-x" / "bin" / "python", tmp_path)


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text("[tool.uv]\nindex-url = 'http://evil'\n")
    return tmp_path / "app"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_machines_have_besides_the_runtime_stays_at_its_release(uv, runtime, app):
    uv.resolved = f"{TINY}\n{SMALL}\n"
    AppPackages(runtime, app, DECLARED).install(["small"])
    machines = AppPackages(runtime, app, DECLARED, {"tiny": "0.9"})
    assert machines.installed() == {}, "a task would find tiny 0.9, and small was installed for another"
    assert AppPackages(runtime, app, DECLARED, {"tiny": "1.0"}).installed() == {"tiny": "1.0", "small": "3.1"}
    uv.resolved = f"{TINY.replace('1.0', '0.9')}\n{SMALL}\n"
    machines.install(["small"])
    assert uv.seen["pip", "constraints.txt"].split() == ["tiny==0.9", "flwr==1.42.0", "numpy==2.3.5"]
    assert machines.installed() == AppPackages(runtime, app, DECLARED).installed() == {"tiny": "0.9", "small": "3.1"}


def test_what_an_app_lacks_is_installed_once_and_only_for_it(uv, runtime, app):
    packages = AppPackages(runtime, app, DECLARED)
    assert packages.installed() == {}
    uv.resolved = f"{NUMPY}\n{TINY}\n{SMALL}\n"
    packages.install(["tiny<2"])
    assert packages.installed() == {"tiny": "1.0", "small": "3.1"}
    assert uv.seen["pip", "constraints.txt"].split() == ["flwr==1.42.0", "numpy==2.3.5"], "the runtime does not change"
    assert uv.seen["pip", "list.txt"] == f"{SMALL}\n{TINY}\n", "with hashes, and without what the runtime has"
    compile_, install = uv.calls
    assert "--require-hashes" in install
    for call in (compile_, install):
        assert call[call.index("--only-binary") + 1] == ":all:"
    assert AppPackages(runtime, app, Declaration("other", DECLARED.dependencies)).installed() == {}
    found = packages_of(runtime.app_packages, DECLARED)
    other = Declaration("other", ("tiny",))
    AppPackages(runtime, app, other).install(["tiny"])
    assert packages_of(runtime.app_packages, other) == found, "the same content is in the same folder"
    assert found.stat().st_mode & 0o777 == runtime.app_packages.stat().st_mode & 0o777 == 0o700
    assert len(names(runtime.app_packages)) == 3
    both = {"tiny": "1.0", "small": "3.1"}
    assert installed_for_apps(runtime) == {"digits": both, "other": both}


def test_a_lock_gives_releases_and_hashes_and_a_changed_one_counts_as_not_installed(uv, runtime, app):
    (app / "uv.lock").write_text("version = 1\n")
    marked = "other==1 ; python_version < '3' \\\n    --hash=sha256:dd"
    uv.exported = f"-e .\n{NUMPY.replace('2.3.5', '1.0')}\n{TINY}\n{marked}\n"
    uv.resolved = TINY.replace("aa", "99") + "\n"
    packages = AppPackages(runtime, app, DECLARED)
    packages.install(["tiny<2"])
    assert uv.seen["pip", "constraints.txt"].split() == ["flwr==1.42.0", "numpy==2.3.5", "tiny==1.0"]
    assert uv.seen["pip", "list.txt"] == f"{TINY}\n", "with the lock's own hashes"
    assert ("export", "uv.lock") in uv.seen
    assert ("pip", "pyproject.toml") not in uv.seen, "the settings of the app could name another index"
    assert "--no-config" in uv.calls[0]
    assert packages.installed() == {"tiny": "1.0"}
    (app / "uv.lock").write_text("version = 1 # changed\n")
    assert packages.installed() == {}
    uv.resolved += SMALL
    with pytest.raises(OneflowerError, match="uv.lock of the app digits does not have small") as caught:
        packages.install(["tiny<2"])
    assert "uv lock" in caught.value.hint


@pytest.mark.parametrize("locked", [False, True])
def test_a_package_from_anywhere_but_the_index_is_refused(locked, uv, runtime, app):
    evil = "tiny @ git+https://evil/tiny"
    if locked:
        (app / "uv.lock").write_text("version = 1\n")
        uv.exported = f"{evil}\n"
    with pytest.raises(OneflowerError, match=r"takes tiny from git\+https://evil/tiny, which is not installed"):
        AppPackages(runtime, app, DECLARED).install(["tiny" if locked else evil])
    assert "compile" not in str(uv.calls)


def test_what_cannot_be_resolved_leaves_nothing_behind(uv, runtime, app):
    with pytest.raises(OneflowerError, match="Cannot find the packages that the app digits needs: there is none"):
        AppPackages(runtime, app, DECLARED).install(["tiny<2"])
    assert names(runtime.app_packages) == []


def test_packages_that_others_could_have_changed_or_that_are_elsewhere_are_not_used(uv, runtime, app, tmp_path):
    uv.resolved = TINY
    AppPackages(runtime, app, DECLARED).install(["tiny<2"])
    found = packages_of(runtime.app_packages, DECLARED)
    found.chmod(0o722)
    assert packages_of(runtime.app_packages, DECLARED) is None
    found.chmod(0o700)
    choice = DECLARED.file(runtime.app_packages)
    link = runtime.app_packages / "packages-0123456789abcdef"
    link.symlink_to(tmp_path)
    for name in ("../packages-0123456789abcdef", "packages-0123456789abcdef", f"{found.name}/..", "packages-00"):
        Choice("digits", name, "").write(choice)
        assert packages_of(runtime.app_packages, DECLARED) is None
    choice.write_text("[]")
    assert packages_of(runtime.app_packages, DECLARED) is None
    Choice("digits", found.name, "").write(choice)
    assert packages_of(runtime.app_packages, DECLARED) == found
