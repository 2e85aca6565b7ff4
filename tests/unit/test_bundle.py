"""Which wheels machines need for an app, and the bundle of them. What uv resolves is in the tests marked e2e."""

from __future__ import annotations

import hashlib
import tarfile

import pytest

from oneflower.images import wheels
from oneflower.images.bundle import write_bundle
from oneflower.images.spec import ImageSpec
from oneflower.images.wheels import Wheel, pins, resolve
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.packages import Wanted, read_packages
from oneflower_appliance.parameters import FLOWER_TESTED

BINARY = "extra-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
PURE = "extra-1.0-py3-none-any.whl"


def package(*files, digest="1" * 64):
    found = [{"url": f"https://index.org/{file}", "size": 7, "hashes": {"sha256": digest}} for file in files]
    return {"name": "extra", "version": "1.0", "wheels": found}


def stored(folder, content=b"a wheel"):
    path = folder / PURE
    path.write_bytes(content)
    return Wheel("extra", "1.0", path.as_uri(), hashlib.sha256(b"a wheel").hexdigest(), 7)


def test_a_line_that_needs_another_release_of_the_runtime_is_refused_with_both_lines():
    have = pins(FLOWER_TESTED, "none")["numpy"]
    with pytest.raises(OneflowerError) as refused:
        resolve({"numpy<2": "the app lab", "flwr>=1": "the app lab"}, FLOWER_TESTED, "none")
    assert f"numpy<2 (the app lab), numpy=={have} (Flower {FLOWER_TESTED} with none)" in refused.value.message
    assert "flwr" not in refused.value.message


def test_what_the_machines_have_or_never_need_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(wheels, "Uv", lambda *_: pytest.fail("uv was asked"))
    lines = ["flwr[simulation]>=1.41", "numpy", "scikit-learn", "oneflower-appliance", "colorama; os_name == 'nt'"]
    assert resolve(dict.fromkeys(lines, "the app"), FLOWER_TESTED, "sklearn") == []


def test_what_pytorch_alone_asks_for_is_not_brought_to_machines_that_have_pytorch(monkeypatch):
    """An image does without Triton, which is 190 MB."""
    for framework in ("pytorch", "pytorch-gpu"):
        have = pins(FLOWER_TESTED, framework)
        found = [{"name": name, "version": have[name], "wheels": []} for name in ("torch", "triton")]
        monkeypatch.setattr(wheels, "_compile", lambda *_, found=found: found)
        assert resolve({"torchvision": "--with"}, FLOWER_TESTED, framework) == []


def test_a_release_of_flower_without_a_list_is_refused():
    with pytest.raises(OneflowerError, match="no list of pinned packages for Flower 1.0.0"):
        resolve({"pandas": "--with"}, "1.0.0", "none")


@pytest.mark.parametrize("files", [(BINARY, PURE), (PURE, BINARY)])
def test_the_wheel_for_the_machines_platform_is_preferred(files):
    newer = "extra-1.0-cp311-cp311-manylinux_2_39_x86_64.whl"
    other = "extra-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
    assert wheels.choose(package(newer, other, *files), {}).file == BINARY


def test_a_package_without_a_wheel_for_the_machines_is_refused():
    with pytest.raises(OneflowerError, match="extra 1.0 has no wheel for Python 3.11 on x86_64"):
        wheels.choose(package("extra-1.0-cp311-cp311-macosx_11_0_arm64.whl"), {})


def test_a_file_that_is_not_the_one_in_the_lock_of_the_app_is_refused(tmp_path):
    (tmp_path / "uv.lock").write_text(
        'version = 1\n[[package]]\nname = "Extra"\nversion = "1.0"\n'
        f'wheels = [{{ url = "https://index.org/{PURE}", hash = "sha256:{"2" * 64}" }}]\n'
        '[[package]]\nname = "lab"\nversion = "1"\nsource = { editable = "." }\n'
    )
    locked = wheels.read_lock(tmp_path)
    assert locked == {"extra": ("1.0", {"2" * 64})}
    with pytest.raises(OneflowerError, match="another hash in the package registry than in the app's uv.lock"):
        wheels.choose(package(PURE), locked)
    assert wheels.choose(package(PURE, digest="2" * 64), locked).file == PURE


def test_a_bundle_is_a_folder_whose_list_is_named_with_its_hash(tmp_path):
    wheel = stored(tmp_path)
    for _ in range(2):  # the second replaces the first
        written = write_bundle([wheel], tmp_path / "wheels")
    assert sorted(path.name for path in written.path.iterdir()) == [PURE, "packages.txt"]
    text = (written.path / "packages.txt").read_text()
    assert read_packages(text) == [Wanted("extra==1.0", (wheel.sha256,))]
    assert read_packages(written.packages) == [Wanted("packages.txt", (hashlib.sha256(text.encode()).hexdigest(),))]


def test_a_bundle_in_a_file_is_the_same_each_time(tmp_path):
    wheel = stored(tmp_path)
    files = [write_bundle([wheel], tmp_path / folder / "lab.tar").path for folder in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        assert archive.getnames() == ["lab", f"lab/{PURE}", "lab/packages.txt"]


def test_a_bundle_replaces_nothing_else(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(OneflowerError, match="exists and is not a bundle") as refused:
        write_bundle([stored(tmp_path)], tmp_path / "thesis")
    assert refused.value.code is ExitCode.CONFLICT
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_wheel_with_another_content_is_not_put_into_a_bundle(tmp_path):
    with pytest.raises(OneflowerError, match="extra-1.0-py3-none-any.whl has the SHA-256"):
        write_bundle([stored(tmp_path, b"another")], tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()


def test_an_image_with_more_packages_has_a_name_of_its_own():
    plain, more = ImageSpec("none"), ImageSpec("none", added=(f"extra==1.0 --hash=sha256:{'1' * 64}",))
    assert more.name.startswith(f"{plain.name}-with-")
    assert more.identifier("disk") != plain.identifier("disk")
