"""The code of others that the page ships is what their packages have, and is shipped."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "src" / "oneflower" / "web" / "static" / "vendor"


def test_each_file_has_its_hash_and_its_licence():
    listed = dict(
        re.findall(r"^\| `([\w.-]+)` .* `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    )
    licences = set(re.findall(r"\(`([\w.-]+\.LICENSE)`\)", (VENDOR / "README.md").read_text()))
    found = {path.name for path in VENDOR.iterdir()} - {"README.md"}
    assert found == listed.keys() | licences
    for name, digest in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
