"""What there is for arm64: how it is checked, and what is refused."""

from __future__ import annotations

import pytest
from scripts.arm64 import wheels_for
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower_appliance.errors import ExitCode, OneflowerError

FILES = {
    "x86_64": "extra-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    "aarch64": "extra-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",
    "newer": "extra-1.0-cp311-cp311-manylinux_2_39_aarch64.whl",  # than the C library of the image
}


def locked(*files, **more):
    wheels = [
        {"url": f"https://index.org/{FILES[each]}", "size": 1000 + len(each), "hashes": {"sha256": each}}
        for each in files
    ]
    return {"packages": [{"name": "extra", "version": "1.0", "wheels": wheels, **more}]}


def test_the_wheel_of_each_machine_counts_if_its_hash_is_in_the_list():
    both = locked("x86_64", "aarch64", "newer")
    listed = "extra==1.0 \\\n    --hash=sha256:x86_64\n"
    assert wheels_for("x86_64", both, listed) == (1006, [])
    assert wheels_for("aarch64", both, listed)[1] == [f"{FILES['aarch64']} is not in the list by its hash."]
    assert wheels_for("aarch64", both, f"{listed}    --hash=sha256:aarch64\n") == (1007, [])


def test_a_package_without_a_wheel_is_named_unless_the_machine_does_not_need_it():
    size, [sentence] = wheels_for("aarch64", locked("x86_64", "newer"), "--hash=sha256:newer")
    assert (size, sentence) == (0, "extra 1.0 has no wheel for Python 3.11 on aarch64.")
    assert wheels_for("aarch64", locked("x86_64", marker="platform_machine == 'x86_64'"), "") == (0, [])


def test_an_image_for_arm64_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(OneflowerError, match="There is no image for arm64 yet, only for amd64") as caught:
        CliRunner().invoke(
            app,
            ["image", "build", "--edge", "--arch", "arm64", "--save", str(tmp_path / "new")],
            catch_exceptions=False,
        )
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert not (tmp_path / "new").exists()
