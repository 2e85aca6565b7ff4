"""What the unit tests share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch):
    """Wait for no disk: no power fails in these tests, so what a file system was given is what is read."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
