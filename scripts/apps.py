"""Runs the apps of tests/apps, each on a federation and with stock Flower, and writes the table of docs/apps.md.

usage: scripts/apps.py --folder DIR [--only NAME ...] [--by SIDE]   run them; DIR keeps the results so far
       scripts/apps.py --folder DIR --compare                       say what each gave, and write the table

SIDE is oneflower or flwr; both if it is left out. An app that has a result is not run again: remove it from DIR.

Stock Flower is `flwr run` with its simulation, in an environment with the same releases of packages. One federation of
1 + 2 and one simulation of 2 run all of them, one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
from scripts.examples import COLOUR, put_into_page, simulate, simulation, surroundings
from tests.apps import KINDS, App, find_all
from uv import find_uv_bin

from oneflower import Federation, local_cloud
from oneflower.cloud.app_output import AppOutput, begins_traceback
from oneflower.runtimes.runtime import pinned_packages
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BEGIN = "<!-- Written by scripts/apps.py. -->\n"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_MEASURED = re.compile(r"(INFO|WARNING) (?!.*fit progress).*\d\.\d{6,}")  # that one has seconds, too
_SIDES = _OURS, _STOCK = "oneflower", "flwr"
_RESULT = "result.json"
_NOT_RUN = "not run"
_NOISE = re.compile(r"Using SuperLink|⚠️|Successfully started|warnings\.warn|\S+: \w*Warning|\W*$")
_TOLERANCE = 1e-6  # relative; the order in which floating-point numbers are added differs


@dataclass
class Result:
    """What one run gave. `error` is why it did not succeed, and `files` maps what it left to the files."""

    log: str = ""
    error: str = ""
    rounds: int = 0
    messages: str = ""
    losses: list[float] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Keep it in a folder."""
        for name, path in self.files.items():
            (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "files" / name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _RESULT).write_text(json.dumps(vars(self) | {"files": []}, indent=1))

    @classmethod
    def of(cls, folder: Path) -> Result | None:
        """Return what was saved, None if nothing was."""
        if not (folder / _RESULT).exists():
            return None
        files = folder / "files"
        found = {str(path.relative_to(files)): path for path in files.rglob("*") if path.is_file()}
        return cls(**json.loads((folder / _RESULT).read_text()) | {"files": found})

    @property
    def printed(self) -> list[str]:
        """The lines that the ServerApp printed."""
        output = AppOutput()
        lines = [line.strip() for line in output.add(self.log) + output.end()]
        return [line for line in lines if line and not line.startswith("(")]  # those of simulated nodes

    @property
    def measured(self) -> list[tuple[str, list[float]]]:
        """The lines of Flower's log that have metrics: each as text without its numbers, and its numbers."""
        lines = [line for line in self.log.splitlines() if _MEASURED.match(line)]
        return [(_NUMBER.sub("#", line), list(map(float, _NUMBER.findall(line)))) for line in lines]


def run_here(federation: Federation, app: App, folder: Path) -> Result:
    """Run an app on a federation."""
    result = Result()
    pieces: list[str] = []
    root = app.write(folder)
    if app.says.get("lock"):
        subprocess.run([find_uv_bin(), "lock", "--quiet", "--directory", str(root)], check=True)
    try:
        found = federation.run(str(root), save=folder / "results", install=True, on_log=pieces.append)
    except OneflowerError as error:
        result.error = error.sentence.replace(str(folder), "DIR").replace(f" of {federation.name}", "")
    else:
        result.rounds, result.messages = len(found.rows), found.messages.sentence if found.messages else ""
        result.losses = [row.loss for row in found.rows if row.loss is not None]
        result.files = {re.sub(r".*?/files/", "", str(path)): path for path in found.more}
    result.log = COLOUR.sub("", "".join(pieces)).replace("\r", "\n")  # as what a command prints is read
    return result


@dataclass(frozen=True)
class Stock:
    """Stock Flower: its environment, and the folder in which it works."""

    environment: Path
    place: Path
    home: Path

    def uv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call uv's pip on the environment."""
        command = [find_uv_bin(), "pip", *arguments, "--python", str(self.environment / "bin/python")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def run(self, app: App) -> Result:
        """Run an app, with the packages that it needs installed."""
        if app.refused and app.kind == "needs":
            return Result()
        needed = app.says.get("lock") or app.says.get("dependencies") or []
        if needed and (done := self.uv("install", "--quiet", *needed)).returncode:
            return Result(error=f"pip: {done.stderr.strip().splitlines()[0]}")
        folder = app.write(self.home.parent)
        if not app.says.get("pyproject", True):
            return Result(error="there is nothing that `flwr run` takes")
        before = set(self.place.rglob("*"))
        log, error = simulate([str(self.environment / "bin/flwr")], folder, self.home, self.place)
        new = {path for path in set(self.place.rglob("*")) - before if path.is_file()}
        return Result(log, error, files={str(path.relative_to(self.place)): path for path in new})


@contextmanager
def stock(place: Path) -> Iterator[Stock]:
    """Make an environment with stock Flower, and end what it leaves running."""
    found = Stock(place / "environment", place / "work", place / "apps" / "flwr")
    for folder in (found.place, found.home):
        folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with simulation(found.home, 2, f"127.0.0.1:{port}"):
        if not found.environment.exists():
            _make_environment(found)
        _start_superlink(found, port)
        yield found


def _make_environment(found: Stock) -> None:
    place = found.environment.parent
    pins = re.findall(r"^[\w.-]+==[^\\\n]+", pinned_packages(FLOWER_TESTED, "sklearn"), re.MULTILINE)
    (place / "pins.txt").write_text("\n".join(pins))
    subprocess.run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, found.environment], check=True)
    names = (f"flwr[simulation]=={FLOWER_TESTED}", "scikit-learn")
    done = found.uv("install", "--quiet", "--compile-bytecode", "--constraint", str(place / "pins.txt"), *names)
    if done.returncode:
        raise SystemExit(done.stderr)


def _start_superlink(found: Stock, port: int) -> None:
    """Start the SuperLink that `flwr run` would start, which waits for it for 15 seconds only."""
    subprocess.Popen(
        [found.environment / "bin/flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
         "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **surroundings(found.home, found.environment / "bin")},
        cwd=found.place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                return
        time.sleep(0.5)
    raise SystemExit("stock Flower's SuperLink does not start")


def compare(app: App, ours: Result | None, theirs: Result | None) -> str:
    """Return what both gave, or what differs after the word DIFFERENT."""
    if ours is None or theirs is None:
        return _NOT_RUN
    if app.refused and app.refused in ours.error:
        return f"fails: {theirs.error}" if theirs.error else "not run: it has an environment of its own for such an app"
    if ours.error and not theirs.error and (why := app.says.get("simulated")):
        return str(why)
    if different := _difference(app, ours, theirs):
        return f"DIFFERENT {different}"
    parts = {
        "printed lines": len(_without_traceback(ours.printed)),
        "lines of metrics": len(ours.measured),
        "files": len(ours.files),
    }
    counted = ", ".join(f"{what} ({count})" for what, count in parts.items() if count)
    failure = "the same failure" if ours.error else ""
    return (
        " and ".join(filter(None, [failure, f"the same {counted}" if counted else ""]))
        or "DIFFERENT nothing to compare"
    )


def _difference(app: App, ours: Result, theirs: Result) -> str:
    known = [number for _, numbers in theirs.measured for number in numbers]
    more = [] if "Traceback" in theirs.log else theirs.printed  # Ray prints the tracebacks of nodes among it
    checks = {
        "end": bool(ours.error) == bool(theirs.error) == bool(app.says.get("fails")),
        "lines": all(line in theirs.printed for line in _without_traceback(ours.printed))
        and all(line in ours.printed or _is_noise(line) for line in more),
        "metrics": _alike(ours.measured, theirs.measured),
        "records": all(any(map(_close, [loss] * len(known), known)) for loss in ours.losses),
        "files": ours.files.keys() == theirs.files.keys()
        and all(_same_file(ours.files[name], theirs.files[name]) for name in ours.files),
    }
    return ", ".join(what for what, same in checks.items() if not same)


def _without_traceback(lines: list[str]) -> list[str]:
    return list(itertools.takewhile(lambda line: not begins_traceback(line), lines))


def _is_noise(line: str) -> bool:
    """Whether a line is not of the ServerApp, but of `flwr run` or of Ray."""
    return _NOISE.match(line) is not None


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _alike(ours: Sequence[tuple[str, list[float]]], theirs: Sequence[tuple[str, list[float]]]) -> bool:
    return [text for text, _ in ours] == [text for text, _ in theirs] and all(
        all(map(_close, left, right)) for (_, left), (_, right) in zip(ours, theirs, strict=True)
    )


def _same_file(one: Path, other: Path) -> bool:
    if one.suffix == ".npz":
        with np.load(one) as left, np.load(other) as right:
            return left.files == right.files and all(np.allclose(left[name], right[name]) for name in left.files)
    if one.suffix == ".joblib":
        return bool(one.stat().st_size) and one.stat().st_size == other.stat().st_size
    ours, theirs = one.read_text(), other.read_text()
    numbers = [list(map(float, _NUMBER.findall(text))) for text in (ours, theirs)]
    return _NUMBER.sub("#", ours) == _NUMBER.sub("#", theirs) and all(map(_close, *numbers))


def table(results: dict[App, list[Result | None]]) -> str:
    """Return the part of the page."""
    lines = []
    for kind, what in KINDS.items():
        lines += [f"Apps {what} (`tests/apps/{kind}`):", "", "| app | `oneflower run` | stock `flwr run` gives |"]
        lines += ["| --- | --- | --- |"]
        for app, (ours, theirs) in results.items():
            if app.kind == kind:
                lines.append(f"| {app.name}: {app.about} | {told(app, ours)} | {compare(app, ours, theirs)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def told(app: App, result: Result | None) -> str:
    """Return what a run on a federation gave, in a few words."""
    if result is None:
        return _NOT_RUN
    if app.refused:
        return " ".join(result.error.split())
    if result.error:
        return "fails, and says why"
    rounds = f"{result.rounds} round{'s' * (result.rounds > 1)}"
    return rounds if result.rounds else result.messages or "runs"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--by", choices=_SIDES, nargs="+", default=_SIDES)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    chosen = [app for app in find_all() if app.name in options.only or not options.only]
    if options.compare:
        write({app: [Result.of(_place(options.folder, side, app)) for side in _SIDES] for app in chosen})
        return
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oneflower-apps-")))
        run: dict[str, Callable[[App], Result]] = {}
        if _OURS in options.by:
            federation = stack.enter_context(Federation.deploy(local_cloud(), 2))
            run[_OURS] = lambda app: run_here(federation, app, place / app.kind)
        if _STOCK in options.by:
            run[_STOCK] = stack.enter_context(stock(options.folder.resolve())).run
        for app in chosen:
            for side, by in run.items():
                kept = _place(options.folder, side, app)
                if not (kept / _RESULT).exists():
                    result = by(app)
                    result.save(kept)
                    sys.stderr.write(f"{side} {app.name}: {result.error or 'ended well'}\n")


def _place(folder: Path, side: str, app: App) -> Path:
    return folder / side / app.kind / app.name


def write(results: dict[App, list[Result | None]]) -> None:
    """Say what differs, and write the table."""
    for app, (ours, theirs) in results.items():
        sys.stderr.write(f"{app.kind}/{app.name}: {compare(app, ours, theirs)}\n")
    put_into_page(BEGIN, table(results))


if __name__ == "__main__":
    main()
