"""Identifies the code that a daemon runs, so that a newer command can detect an older daemon."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import oneflower_appliance


@functools.cache
def build_id() -> str:
    """Return a digest of everything that a daemon may import from here: this distribution and the appliance's."""
    digest = hashlib.sha256()
    for package in (Path(__file__).parents[1], Path(oneflower_appliance.__path__[0])):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
