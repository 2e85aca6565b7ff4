"""What the machines of an image install with pip: from a folder of wheels, and from an index. Real pip, real TLS."""

from __future__ import annotations

import ensurepip
import functools
import http.server
import io
import ssl
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from oneflower_appliance.agent import packages
from oneflower_appliance.agent.tls import make_certificates
from oneflower_appliance.attributes import PACKAGES
from oneflower_appliance.errors import ExitCode, OneflowerError

from .test_packages import ONE, imported, machine, wheel, wheels  # noqa: F401 - fixtures

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _no_uv(monkeypatch, tmp_path):
    """Install as the machines of an image do: beside their Python is no uv, and pip is Debian's, or else Python's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    if not any(packages.PIP.glob("pip-*.whl")):
        monkeypatch.setattr(packages, "PIP", Path(ensurepip.__file__).with_name("_bundled"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A package index is a page of links for each package: the listing of a folder is one."""

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Serve a folder over TLS, with a certificate that pip trusts if `trusted`. Return the address."""
    files = make_certificates(tmp_path / "tls", [("IP", "127.0.0.1")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    servers = []

    def serve(*, trusted=True):
        if trusted:
            child = packages.Child
            monkeypatch.setattr(
                packages,
                "Child",
                lambda command, given, *more: child(command, {**given, "PIP_CERT": str(files.ca)}, *more),
            )
        (tmp_path / "simple").mkdir()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}/simple"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_folder_of_wheels_is_installed_by_hash_and_hides_nothing(machine, wheels):  # noqa: F811
    files = {"extra.py": "answer = 42\n", "json.py": "1/0\n", "evil.pth": "import nothing_such\n"}
    lines = [wheel(wheels, "extra", needs=["helper>=1", "numpy"], files=files), wheel(wheels, "helper")]
    booted = machine(" ".join(lines))
    assert packages.install(booted) == "2 installed, 0 are in the runtime"
    assert imported(booted, "import json, extra, helper; print(extra.answer)") == "42"
    assert PACKAGES.read(packages.published(booted.home, booted.settings)) == "extra==1.0\nhelper==1.0"


def test_an_index_gives_what_has_the_hash_and_nothing_else(machine, index, tmp_path):  # noqa: F811
    url = index()
    (tmp_path / "simple" / "extra").mkdir()
    line = wheel(tmp_path / "simple" / "extra", "extra")
    booted = machine(line, FL_PACKAGE_INDEX=url)
    assert packages.install(booted) == "1 installed, 0 are in the runtime"
    assert imported(booted, "import extra; print(extra.answer)") == "42"
    replaced = machine(f"extra==1.0 --hash=sha256:{ONE}", FL_PACKAGE_INDEX=url)
    with pytest.raises(OneflowerError, match=f"could not be installed from {url}: .*{ONE}") as refused:
        packages.install(replaced)
    assert refused.value.code is ExitCode.ENVIRONMENT
    assert PACKAGES.read(packages.published(replaced.home, replaced.settings)) == ""
    packages.install(machine("extra", FL_PACKAGE_INDEX=url, FL_PACKAGE_HASHES="NO"))
    assert imported(booted, "import extra; print(extra.answer)") == "42"


def test_nothing_is_built_from_source_since_that_runs_its_code(machine, wheels, tmp_path):  # noqa: F811
    with tarfile.open(wheels / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, text in {"setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n", "PKG-INFO": "Name: evil\n"}.items():
            entry = tarfile.TarInfo(f"evil-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    with pytest.raises(OneflowerError, match="No matching distribution found for evil"):
        packages.install(machine("evil", FL_PACKAGE_HASHES="NO"))
    assert not (tmp_path / "ran").exists()


def test_a_wheel_writes_nothing_outside_of_the_folder(machine, wheels, tmp_path):  # noqa: F811
    wheel(wheels, "extra")
    with zipfile.ZipFile(wheels / "extra-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("../../outside.py", "")
    with pytest.raises(OneflowerError, match="could not be installed"):
        packages.install(machine("extra", FL_PACKAGE_HASHES="NO"))
    assert not list(tmp_path.rglob("outside.py"))


def test_an_index_that_is_not_trusted_or_does_not_answer_is_said(machine, index):  # noqa: F811
    url = index(trusted=False)
    with pytest.raises(OneflowerError, match=f"could not be installed from {url}: .*certificate") as refused:
        packages.install(machine(f"extra==1.0 --hash=sha256:{ONE}", FL_PACKAGE_INDEX=url))
    assert "See that the machine can reach FL_PACKAGE_INDEX" in refused.value.hint
    with pytest.raises(OneflowerError, match="could not be installed from https://127.0.0.1:9/simple: .*refused"):
        packages.install(machine(f"extra==1.0 --hash=sha256:{ONE}", FL_PACKAGE_INDEX="https://127.0.0.1:9/simple"))
