"""Looks at a node's data where it is: how much, in which shape, with which labels, and what is missing.

No value of the data leaves this module: counts, names of columns and of classes do. It stops after some seconds. It is
run in a process of its own: what reads tables is large, and a damaged file may end it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.checks import FAIL, OK, WARN, Check, Topic, pack, unpack
from oneflower_appliance.process import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

_GRACE = 10.0  # seconds for what takes long without a look at the clock
_MOST_FILES = 100_000
_NAMED = 5  # of many files, columns or classes
_LABELS = ("label", "labels", "target", "class", "y")
_CLASSES = 50  # a column with more different values is no label
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_TABLES, _LINES, _ARRAYS = (".csv", ".parquet"), (".jsonl",), (".npy", ".npz")
_FILL = "Fill them in, or remove those rows."
_READ = "Correct or remove it."


def summarise(folder: Path, patience: float) -> tuple[Check, ...]:
    """Return what another process found in `folder`, within `patience` seconds and a few more; nothing if it failed."""
    child = Child([sys.executable, "-m", __name__, str(folder), str(patience)], {}, lambda _: None)
    child.ended.wait(patience + _GRACE)
    last = child.last_line()
    child.stop(0)
    return unpack(last)


class DataSummary:
    """The data in `folder`, of which as much is looked at as `patience` allows, in seconds by `clock`."""

    def __init__(self, folder: Path, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._end = clock() + patience

    def checks(self) -> Iterator[Check]:
        """Yield what was found. Never raises."""
        try:
            files = self._files()
        except OSError as error:
            yield _check(FAIL, f"{error.filename} cannot be read: {error.strerror}", "Let the agent's user read it.")
            return
        if not files:
            yield _check(FAIL, f"{self._folder} has no files", "Put the data there, or correct FL_DATA_PATH.")
            return
        of: dict[str, list[Path]] = {}
        for path in files:
            of.setdefault(path.suffix.lower(), []).append(path)
        size = sum(path.stat().st_size for path in files if path.exists())
        yield _check(OK, f"{self._folder}: {_count(len(files), 'file')}, {size / 1e6:,.1f} MB")
        for kinds, look in (
            (_TABLES, self._tables),
            (_LINES, self._lines),
            (_ARRAYS, self._arrays),
            (_IMAGES, self._images),
        ):
            if chosen := [path for kind in kinds for path in of.get(kind, ())]:
                yield from look(chosen)

    def _files(self) -> list[Path]:
        """Return the files, sorted. Raises `OSError` for a folder that cannot be read."""

        def refuse(error: OSError) -> None:
            raise error

        found: list[Path] = []
        for folder, inner, names in os.walk(self._folder, onerror=refuse):
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "lost+found")
            found += (Path(folder) / name for name in sorted(names) if not name.startswith("."))
            if len(found) >= _MOST_FILES:
                break
        return found[:_MOST_FILES]

    @property
    def _is_late(self) -> bool:
        return self._clock() > self._end

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _tables(self, paths: list[Path]) -> Iterator[Check]:
        try:
            import pyarrow as pa  # noqa: PLC0415 - in the runtimes of apps, and nowhere else
        except ImportError:
            yield _check(OK, f"{_count(len(paths), 'table')}: this machine has no pyarrow to look into them")
            return
        columns: dict[tuple[str, ...], str] = {}
        for number, path in enumerate(paths):
            if self._is_late:
                yield _check(OK, f"{len(paths) - number} more tables were not looked into, for lack of time")
                break
            try:
                table = _Table()
                for batch in _batches(path):
                    table.add(batch)
                    if self._is_late:
                        table.is_whole = False
                        break
            except (OSError, pa.ArrowException) as error:
                yield _check(FAIL, f"{self._name(path)} cannot be read: {str(error).splitlines()[0]}", _READ)
                continue
            columns.setdefault(tuple(sorted(table.names)), self._name(path))
            yield from table.checks(self._name(path))
        if len(columns) > 1:
            (first, one), (second, other) = list(columns.items())[:2]
            odd = _some(sorted(set(first) ^ set(second)))
            yield _check(WARN, f"{one} and {other} have different columns: {odd}", "Make the tables alike.")

    def _lines(self, paths: list[Path]) -> Iterator[Check]:
        for path in paths:
            count, bad, keys = 0, 0, set()
            try:
                with path.open(encoding="utf-8") as lines:
                    for line in filter(str.strip, lines):
                        count += 1
                        try:
                            keys |= set(json.loads(line))
                        except (ValueError, TypeError, RecursionError):
                            bad += 1
                        if self._is_late:
                            break
            except (OSError, UnicodeDecodeError) as error:
                yield _check(FAIL, f"{self._name(path)} cannot be read: {error}", _READ)
                continue
            yield _check(OK, f"{self._name(path)}: {_count(count, 'line')}; keys {_some(sorted(map(str, keys)))}")
            if bad:
                yield _check(WARN, f"{self._name(path)}: {bad} of {count} lines are not JSON objects", _READ)

    def _arrays(self, paths: list[Path]) -> Iterator[Check]:
        import numpy as np  # noqa: PLC0415 - costs time at each start of the agent

        for path in paths[:_NAMED]:
            try:
                loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
                of = dict(loaded) if path.suffix.lower() == ".npz" else {"": loaded}
            except (OSError, ValueError, EOFError) as error:
                yield _check(FAIL, f"{self._name(path)} cannot be read: {error}", _READ)
                continue
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}".strip() for name, array in of.items())
            yield _check(OK, f"{self._name(path)}: {shapes}")
            for name, array in of.items():
                if array.dtype.kind == "f" and (bad := int(np.size(array) - np.isfinite(array).sum())):
                    yield _check(WARN, f"{self._name(path)}: {bad} values of {name or 'it'} are not finite", _FILL)

    def _images(self, paths: list[Path]) -> Iterator[Check]:
        classes = Counter(self._name(path.parent) for path in paths)
        yield _check(OK, f"{_count(len(paths), 'image')} in {_count(len(classes), 'folder')}: {_counts(classes)}")
        if lone := [name for name, count in classes.items() if count < 2]:
            yield _check(
                WARN, f"only one image is in {_some(lone)}", "A class needs one to train on and one to test on."
            )
        try:
            from PIL import Image  # noqa: PLC0415 - in the runtimes of apps, and nowhere else
        except ImportError:
            return
        sizes: Counter[str] = Counter()
        bad = []
        for path in paths:
            if self._is_late:
                break
            try:
                with Image.open(path) as image:
                    sizes[f"{image.width} x {image.height} {image.mode}"] += 1
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                bad.append(self._name(path))
        if sizes:
            yield _check(OK, f"their sizes: {_counts(sizes)}")
        if bad:
            yield _check(WARN, f"{_count(len(bad), 'file')} cannot be read as images: {_some(bad)}", _READ)


class _Table:
    """What is counted of a table while it is read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_whole = True
        self._rows = 0
        self._missing: Counter[str] = Counter()
        self._labels: dict[str, Counter[str]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count some rows."""
        from pyarrow import compute  # noqa: PLC0415

        if not self.names:
            self.names = list(batch.schema.names)
            self._labels = {name: Counter() for name in self.names if name.lower() in _LABELS}
        self._rows += batch.num_rows
        for name in self.names:
            self._missing[name] += compute.sum(compute.is_null(batch[name], nan_is_null=True)).as_py() or 0
        for name, counts in self._labels.items():
            for entry in compute.value_counts(batch[name]).to_pylist():
                counts[str(entry["values"])] += entry["counts"]

    def checks(self, name: str) -> Iterator[Check]:
        """Yield what was found in the table of that name."""
        least = "" if self.is_whole else "at least "
        labels = {column: counts for column, counts in self._labels.items() if len(counts) <= _CLASSES}
        more = "".join(f"; {column}: {_counts(counts)}" for column, counts in labels.items())
        yield _check(
            OK if self._rows else FAIL,
            f"{name}: {least}{_count(self._rows, 'row')}, {_count(len(self.names), 'column')}{more}",
            "" if self._rows else "Give this node rows.",
        )
        gaps = {column: count for column, count in self._missing.items() if count}
        if gaps:
            what = _some([f"{column} ({count})" for column, count in gaps.items()])
            yield _check(WARN, f"{name}: values are missing in {what}, of {self._rows} rows", _FILL)
        for column, counts in labels.items():
            if len(counts) == 1:
                yield _check(WARN, f"{name}: every row has the same {column}", "A model learns nothing from one class.")


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv, parquet  # noqa: PLC0415

    if path.suffix.lower() == ".csv":
        with csv.open_csv(path) as reader:
            yield from reader
        return
    with parquet.ParquetFile(path) as table:
        yield from table.iter_batches()


def _check(status: str, detail: str, fix: str = "") -> Check:
    return Check(status, Topic.DATA, detail, fix)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _counts(counts: Counter[str]) -> str:
    return _some([f"{count:,} of {name}" for name, count in counts.most_common(_NAMED + 1)], len(counts))


def _some(names: list[str], total: int = 0) -> str:
    more = max(total, len(names)) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    print(pack(DataSummary(Path(sys.argv[1]), float(sys.argv[2])).checks()))  # noqa: T201 - what `summarise` reads
