"""Apps from folders, bundles and Flower Hub: what Flower gets is the app, and nothing of a hostile bundle is written."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import FAB_INCLUDE_PATTERNS

from oneflower.cloud import fab
from oneflower.cloud.app_copy import PACKED, PACKED_NAMES, names_federations, without_federations
from oneflower.cloud.app_source import opened
from oneflower.events import ignore
from oneflower_appliance.errors import OneflowerError

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # which Flower uses

PROJECT = """
[project]
name = "mine"
version = "1.0.0"
[tool.flwr.app]
publisher = "me"
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
"""
FEDERATIONS = """
[tool.flwr.federations]
default = "oneflower"
[tool.flwr.federations.oneflower]
address = "elsewhere:9092"
"""


def app(folder, project=PROJECT):
    files = {"pyproject.toml": project, "mine/server.py": "app = 1", "mine/client.py": "app = 2", "mine/a.json": "{}"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def name_of(content):
    return f"me.mine.1-0-0.{hashlib.sha256(content).hexdigest()[:8]}.fab"


def written(folder, content):
    path = folder / name_of(content)
    path.write_bytes(content)
    return path


def archive(members, listed=None, **how):
    """Return a bundle of `members`, whose list has them, or `listed`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **how) as packed:
        for member, data in members:
            packed.writestr(member, data)
        names = [(getattr(member, "filename", member), data) for member, data in members]
        lines = [f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in names]
        packed.writestr(".info/CONTENT", "\n".join(lines if listed is None else listed))
    return content.getvalue()


def test_what_flower_packs_of_a_copy_is_what_it_packs_of_the_app(tmp_path):
    folder = app(tmp_path / "app", PROJECT + FEDERATIONS)
    for name in ("LICENSE", "README.md", "secret.py", ".venv/x.py", "data.npz", "mine/conf/deep.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("secret.py")
    (folder / "link.py").symlink_to("/etc/passwd")
    before = (folder / "pyproject.toml").read_text()
    assert names_federations(folder)
    with without_federations(folder) as copy:
        assert copy != folder
        assert not names_federations(copy)
        assert build_fab_from_disk(copy) == build_fab_from_disk(folder)
        assert not (copy / "data.npz").exists()
    assert not copy.exists()
    assert (folder / "pyproject.toml").read_text() == before
    assert {*PACKED, *PACKED_NAMES} >= {pattern.removeprefix("**/*").lstrip("/") for pattern in FAB_INCLUDE_PATTERNS}


def test_an_app_that_names_no_federations_is_not_copied(tmp_path):
    folder = app(tmp_path)
    assert not names_federations(folder)
    with without_federations(folder) as same:
        assert same == folder


def test_a_bundle_that_flower_built_is_unpacked_and_removed_again(tmp_path):
    content = build_fab_from_disk(app(tmp_path / "app"))
    with opened(str(written(tmp_path, content)), lambda: Path("flwr"), ignore) as folder:
        assert build_fab_from_disk(Path(folder)) == content
        assert not (Path(folder) / ".info").exists()
    assert not Path(folder).exists()


FILE = ("pyproject.toml", PROJECT.encode())


def linked(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"this is no zip", "not a whole zip archive"),
        (archive([FILE])[:-30], "not a whole zip archive"),
        (archive([FILE], listed=[]), "its list and its files differ: pyproject.toml"),
        (archive([FILE], listed=["pyproject.toml,00,8"]), "differ: pyproject.toml"),
        (archive([FILE], listed=["\0\xff,,", "x"]), "differ"),
        (archive([FILE, ("../../evil.py", b"")]), "write outside of its folder"),
        (archive([FILE, ("/etc/evil.py", b"")]), "write outside of its folder"),
        (archive([FILE, ("a/..", b"")]), "write outside of its folder"),
        (archive([FILE, ("a\\..\\b.py", b"")]), "write outside of its folder"),
        (archive([FILE, ("a\x1b[2J.py", b"")]), "write outside of its folder"),
        (archive([FILE, (linked("mine"), b"/etc")]), "mine is not a file but a link"),
        (archive([FILE, ("a", b""), ("a/b", b"")]), "it has a twice"),
        (archive([FILE, ("zeros.py", bytes(101 << 20))], compression=zipfile.ZIP_DEFLATED), "more than 100 MB"),
        (archive([FILE], compression=zipfile.ZIP_LZMA), "compressed as Flower does not"),
        (bytes(11 << 20), "larger than the 10 MB"),
        (archive([("a.py", b"")]), "does not name publisher, name and version"),
        (archive([("pyproject.toml", b"project = 1")]), "does not name publisher"),
    ],
)  # fmt: skip
def test_nothing_of_a_bundle_is_written_that_is_not_as_flower_made_it(tmp_path, content, why):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with pytest.raises(OneflowerError, match=why):
        fab.unpack(written(tmp_path, content), inside)
    assert list(inside.iterdir()) == []


def test_a_bundle_that_was_renamed_or_is_missing(tmp_path):
    content = build_fab_from_disk(app(tmp_path / "app"))
    written(tmp_path, content).rename(tmp_path / "my.fab")
    with pytest.raises(OneflowerError, match=f"belongs to its content, {name_of(content)}"):
        fab.unpack(tmp_path / "my.fab", tmp_path)
    with pytest.raises(OneflowerError, match="There is no file"):
        fab.unpack(tmp_path / "no.fab", tmp_path)


def flwr(folder, script):
    command = folder / "flwr"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o700)
    return lambda: command


def test_an_app_of_flower_hub_is_fetched_by_flower_itself(tmp_path):
    command = flwr(tmp_path, f'test "$1 $2" = "new @me/mine==1.0.0" && cp -r {app(tmp_path / "app")} mine')
    with opened("@me/mine==1.0.0", command, ignore) as folder:
        assert (Path(folder) / "mine" / "server.py").read_text() == "app = 1"
    assert not Path(folder).exists()


def test_what_to_do_without_a_way_to_flower_hub(tmp_path):
    command = flwr(tmp_path, "echo '╭─ Error ─╮\n│ Unable to connect │\n╰──╯' >&2; exit 1")
    with (
        pytest.raises(OneflowerError, match="cannot be fetched from Flower Hub: Unable to connect") as caught,
        opened("@me/mine", command, ignore),
    ):
        pass
    assert "run `flwr new @me/mine` where there is one" in caught.value.hint
