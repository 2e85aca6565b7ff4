"""Updates what is registered without undoing what an operator changed by hand.

Three versions of every value are compared: the one that we registered last (its digest is stored with it), the current
one, and the one that we would register today. If the current value is the one that we registered, we may change it. If
it differs, somebody changed it, and it stays.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Path = tuple[str, ...]


# How a change reads. What is removed may be a whole thing, or a part with the value that it had.
_TEXTS = {
    "create": "+ {what}",
    "update": "~ {what}: {path} {before} -> {after}",
    "keep": "= {what}: {path} stays {before}, changed by hand (--force makes it {after})",
    "replace": "~ {what} is replaced by {after}; it stays, for the machines that boot from it",
    "aside": "~ {what} is called {after} from now on, because it is in use: {before}",
    "used": "= {what} stays, because it is in use: {before}",
    "share": "~ {what}: the group {after} may use it",
}


@dataclass(frozen=True)
class Change:
    """One difference.

    `kind` is create, update, remove, or keep if an operator's own value stays. Of images and VM templates it may also
    be replace (`after` takes its place), used or aside (it stays because `before` uses it; aside is called `after` from
    now on), and share (the group `after` may use it now).
    """

    kind: str
    what: str
    path: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if self.kind == "remove":
            return f"- {self.what}: {self.path} (was {self.before})" if self.path else f"- {self.what}"
        before = self.before or ("(none)" if self.kind == "update" else "")
        return _TEXTS[self.kind].format(what=self.what, path=self.path, before=before, after=self.after)


def flatten(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Return data as leaves by path. Objects are flattened, and so are lists of named objects, by name."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        items = {f"[{item['name']}]": item for item in value}.items()
    else:
        return {path: value}
    return {leaf: content for key, inner in items for leaf, content in flatten(inner, (*path, key)).items()}


def digests(value: Any) -> dict[str, str]:
    """Return a short digest of every leaf, by its path as text. It is stored to tell our values from others'."""
    return {label(path): digest(leaf) for path, leaf in flatten(value).items()}


def digest(leaf: Any) -> str:
    """Return a short digest of a leaf."""
    return hashlib.sha256(json.dumps(leaf, sort_keys=True).encode()).hexdigest()[:10]


def label(path: Path) -> str:
    """Return a path as text."""
    return ".".join(path).replace(".[", "[")


@dataclass(frozen=True)
class Outcome:
    """What should be there, how it differs from what is there now, and the digests to keep with it."""

    content: Any
    changes: tuple[Change, ...]
    base: Mapping[str, str]


def reconcile(
    what: str,
    base: Mapping[str, str],
    theirs: Any,
    ours: Any,
    *,
    undecided: Collection[Path] = (),
    force: bool = False,
) -> Outcome:
    """Return what should be there.

    `base` are the digests of what we registered last, `theirs` is what is there now, and `ours` is what we would
    register. If there are values below an `undecided` path, they stay as they are. Everywhere else, `force` makes ours
    win. What we never registered always stays.
    """
    there, wanted = flatten(theirs), flatten(ours)
    settled = [path for path in undecided if any(leaf[: len(path)] == path for leaf in there)]
    wanted = {path: leaf for path, leaf in wanted.items() if not _below(path, settled)}
    result, changes = copy.deepcopy(theirs), []
    for path, leaf in wanted.items():
        before = there.get(path)
        if before == leaf and path in there:
            continue
        texts = (label(path), _text(before), _text(leaf))
        untouched = base.get(label(path)) == digest(before) if path in there else label(path) not in base
        if force or untouched:
            _put(result, path, leaf)
            changes.append(Change("update", what, *texts))
        else:
            changes.append(Change("keep", what, *texts))
    for path, leaf in there.items():
        ours_once = base.get(label(path)) == digest(leaf) and not _below(path, settled)
        if path not in wanted and ours_once and not _opens_up(path, wanted):
            _drop(result, path)
            changes.append(Change("remove", what, label(path), _text(leaf)))
    kept = {label(path): base[label(path)] for path in there if _below(path, settled) and label(path) in base}
    return Outcome(result, tuple(changes), {label(path): digest(leaf) for path, leaf in wanted.items()} | kept)


def _below(path: Path, prefixes: Collection[Path]) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in prefixes)


def _opens_up(path: Path, wanted: Mapping[Path, Any]) -> bool:
    """Whether a current leaf is an object in what we want."""
    return any(other[: len(path)] == path for other in wanted)


def _put(data: Any, path: Path, leaf: Any) -> None:
    for key in path[:-1]:
        data = _step(data, key)
    data[path[-1]] = leaf


def _step(data: Any, key: str) -> Any:
    if isinstance(data, list):
        name = key[1:-1]
        found = next((item for item in data if item.get("name") == name), None)
        if found is None:
            found = {"name": name}
            data.append(found)
        return found
    if not isinstance(data.get(key), dict | list):
        data[key] = {}
    return data[key]


def _drop(data: Any, path: Path) -> None:
    """Remove a leaf, and the objects that are empty without it."""
    key, *rest = path
    if rest:
        inner = _step(data, key)
        _drop(inner, tuple(rest))
        if inner != {} or isinstance(data, list):
            return
    if isinstance(data, dict):
        data.pop(key, None)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "" if value is None else text if len(text) <= 60 else text[:57] + "..."
