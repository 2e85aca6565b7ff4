"""The local cloud's store when it cannot be written."""

from __future__ import annotations

import pytest

from oneflower.local.errors import CloudError
from oneflower.local.store import Store


def test_a_full_disk_is_refused_as_such_and_what_was_kept_can_be_read(tmp_path, monkeypatch):
    store = Store(tmp_path / "cloud.db")
    try:
        store.save_record("image", 1, {"NAME": "small"})
        store.execute("PRAGMA max_page_count=1")  # which SQLite rounds up to what there is
        with pytest.raises(
            CloudError, match=r"cannot keep its state\. .*cloud\.db cannot be written: .* full\."
        ) as caught:
            store.save_record("image", 2, {"NAME": "x" * 100_000})
        assert caught.value.status == 500
        monkeypatch.setattr("oneflower.local.store.no_room", lambda folder: f"The disk is full: {folder}.")
        with pytest.raises(CloudError, match="The disk is full"):
            store.save_record("image", 2, {"NAME": "x" * 100_000})
        monkeypatch.setattr("oneflower.local.store.no_room", lambda folder: "")
        with pytest.raises(CloudError, match="cannot keep its state"):
            [store.next_id(f"{number}" + "x" * 1000) for number in range(1000)]
        assert store.records("image") == {1: {"NAME": "small"}}
        store.execute("PRAGMA max_page_count=100000")
        store.save_record("image", 2, {"NAME": "x" * 100_000})
    finally:
        store.close()
