"""What all tests share: they touch nothing that belongs to the user, and leave nothing behind."""

from __future__ import annotations

import gc
import signal

import pytest

from tests import examples

examples.register_profiles()


gc.disable()  # until all is imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would all below


def pytest_collection_finish():
    """Have no collection of garbage look through what was imported, which stays to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    for name in ("ONE_AUTH", "ONE_XMLRPC", "ONEFLOW_URL", "ONEFLOW_USER", "ONEFLOW_PASSWORD", "ONEFLOWER_CLOUD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path / "oneflower-home"))
