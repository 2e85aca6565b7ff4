"""What is in a node's data folder is found by name, and nothing is ever written there."""

from __future__ import annotations

import os

import pytest

from oneflower_appliance.flower import own_data


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def work(tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "as before")  # and back to what it was, after the test
    folder = tmp_path / "runs" / "7" / "files"
    folder.mkdir(parents=True)
    return folder


def test_folders_appear_beside_the_app_and_take_no_name_from_it(tmp_path, work):
    data = tmp_path / "data"
    for name in ("acme/flowers/train.csv", "out/x.csv", "lost+found/x", ".trash/x", "plain.csv", "datasets/train.csv"):
        write(data / name)
    write(work / "out" / "mine")
    for _ in range(2):
        own_data.offer(data, work)
    assert sorted(path.name for path in work.iterdir()) == ["acme", "datasets", "out"]
    assert (work / "acme" / "flowers" / "train.csv").read_text() == "x"
    assert [path.name for path in (work / "out").iterdir()] == ["mine"]
    assert os.environ["HF_HOME"] == "as before", "a folder that is called datasets is no cache yet"


def test_a_cache_of_hugging_face_is_used_offline_and_only_read(tmp_path, work):
    data = tmp_path / "data"
    version = data / "datasets" / "acme___flowers" / "default" / "0.0.0" / "abc"
    write(version / "dataset_info.json", "{}")
    write(version.with_name("abc_builder.lock"))
    snapshot = data / "hub" / "datasets--acme--flowers" / "snapshots" / "abc"
    write(snapshot.parent.parent / "blobs" / "1", "rows")
    snapshot.mkdir(parents=True)
    (snapshot / "x.parquet").symlink_to("../../blobs/1")
    before = sorted(data.rglob("*"))
    for _ in range(2):
        own_data.offer(data, work)
    home = work.parent / "huggingface"
    assert (os.environ["HF_HOME"], os.environ["HF_DATASETS_OFFLINE"]) == (str(home), "1")
    assert os.environ["HF_HUB_OFFLINE"] == "as before", "models may still come from the Hub"
    assert list(work.iterdir()) == []
    copy = home / version.relative_to(data)
    assert (copy / "dataset_info.json").read_text() == "{}"
    assert not copy.with_name("abc_builder.lock").exists()
    assert (home / snapshot.relative_to(data) / "x.parquet").read_text() == "rows"
    write(copy / "cache.arrow")
    assert sorted(data.rglob("*")) == before
    write(data / "hub" / "models--acme--small" / "snapshots" / "abc" / "model.bin")
    own_data.offer(data, work)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
