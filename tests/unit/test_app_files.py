"""The files of an app that a SuperLink takes, against what Flower itself packs of the app."""

from __future__ import annotations

import json
from types import SimpleNamespace

import httpx
import pytest
from flwr.cli.build import build_fab_from_disk, build_fab_from_files

from oneflower.cloud import submission
from oneflower.cloud.app_files import app_files
from oneflower.cloud.apps import load_app
from oneflower.cloud.superlink import SuperLinkClient
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.use_cases import USE_CASES

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # which Flower uses


@pytest.fixture
def own(tmp_path):
    """An app of a user, with what Flower leaves out."""
    folder = tmp_path / "own"
    (folder / "own").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "own"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n[tool.flwr.app]\npublisher = "us"\n'
        '[tool.flwr.app.components]\nserverapp = "own.server:app"\nclientapp = "own:client"\n'
        '[tool.flwr.app.config]\nrate = 1.0\n[tool.flwr.federations]\ndefault = "old"\n'
    )
    (folder / "own" / "__init__.py").write_text("from own.more import client\n")
    (folder / "own" / "more.py").write_text("client: object = None\n")
    (folder / "own" / "server.py").write_text("app = None\n")
    (folder / "own" / "secret.py").write_text("password = 1\n")
    (folder / ".gitignore").write_text("secret.py\n")
    (folder / "data.bin").write_bytes(b"\0" * 100)
    (folder / "link.py").symlink_to("/etc/passwd")
    return folder


@pytest.mark.parametrize("name", [*USE_CASES, "own"])
def test_the_app_is_byte_for_byte_the_one_that_flwr_run_sends(name, own):
    app = load_app(name if name in USE_CASES else str(own), {})
    files = app_files(app.folder, app.components)
    assert files is not None
    assert "data.bin" not in files
    assert "link.py" not in files
    assert build_fab_from_files(files)[0] == build_fab_from_disk(app.folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("own/server.py", "other = None\n"),
        ("own/server.py", "def broken(:\n"),
        ("own/server.py", "if True:\n    app = None\n"),
        ("own/server.py", "from somewhere import *\n"),
        ("own/large.md", "x" * (8 * 2**20)),
    ],
)
def test_flwr_run_looks_at_an_app_that_is_not_plain(own, file, content):
    (own / file).write_text(content)
    app = load_app(str(own), {})
    assert app_files(app.folder, app.components) is None


@pytest.mark.parametrize("status", [200, 400, 409, 501])
def test_a_run_is_started_by_the_superlink_or_by_flwr_run(own, tmp_path, status):
    asked, config = [], {"rate": float("inf")}

    def answer(request):
        asked.append(json.loads(request.content))
        return httpx.Response(status, json={"id": "6"}) if status == 200 else httpx.Response(status, text="No.\n")

    link = SuperLinkClient("127.0.0.1:1", "", tmp_path / "flwr")
    link._http = httpx.Client(base_url="http://link", transport=httpx.MockTransport(answer))  # noqa: SLF001
    link.flower = lambda *_: {"run-id": 7}
    app = load_app(str(own), {})
    if status == 409:
        with pytest.raises(OneflowerError, match="Flower refused: No"):
            submission.submit(link, app, config)
    else:
        assert submission.submit(link, app, config) == ("6" if status == 200 else "7")
    [wanted] = asked
    assert wanted["config"] == config
    link.close()


def test_an_app_without_files_to_send_is_started_by_flwr_run(own):
    (own / "own" / "server.py").unlink()
    link = SimpleNamespace(flower=lambda *_: {"run-id": 7})
    assert submission.submit(link, load_app(str(own), {}), {}) == "7"
