"""Writes YAML that all readers read alike: block style, texts in double quotes, long texts as blocks."""

from __future__ import annotations

import json
from typing import Any


def to_yaml(content: dict[str, Any]) -> str:
    """Return a YAML document. Texts with line breaks are blocks; a key is written as it is."""
    return "---\n" + "".join(f"{line}\n" for line in _lines(content))


def _lines(content: Any) -> list[str]:
    found: list[str] = []
    entries = content.items() if isinstance(content, dict) else [(None, item) for item in content]
    for key, value in entries:
        head = "-" if key is None else f"{key}:"
        if isinstance(value, str) and "\n" in value:
            found.append(f"{head} |-")
            found += [f"  {line}" if line else "" for line in value.split("\n")]
        elif isinstance(value, dict | list) and value:
            inner = _lines(value)
            if key is None:
                found += [f"- {inner[0]}", *(f"  {line}" if line else "" for line in inner[1:])]
            else:
                found += [head, *(f"  {line}" if line else "" for line in inner)]
        else:
            found.append(f"{head} {json.dumps(value, ensure_ascii=False)}")
    return found
