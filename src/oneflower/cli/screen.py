"""What people see: progress while something takes long, tables at the end, JSON for programs.

Results go to standard output; progress and remarks go to standard error, as a live display on a terminal and as plain
lines anywhere else.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from oneflower.cli.printable import in_a_line, printable
from oneflower_appliance.runs import list_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from oneflower.cloud import FederationStatus, RunProgress, RunResult, RunRow


_TICK = 0.5
_SILENCE = 15.0  # seconds after which those who read a log would wonder


class Output(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def console() -> Console:
    """Return the console for progress and remarks."""
    from rich.console import Console  # noqa: PLC0415 - costs time that --help need not spend

    return Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=None if sys.stderr.isatty() else False)


def say(text: str) -> None:
    """Print a remark."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Print a remark that must not be overlooked: in red, where there are colours."""
    console().print(printable(text), style="red", markup=False)


def show(text: str) -> None:
    """Print a result."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def show_line(text: str) -> None:
    """Print a result in one line, whatever it holds: no part of it can pass for another."""
    show(printable(text).replace("\n", " "))


def show_json(value: Any) -> None:
    """Print a result as JSON."""
    show(json.dumps(_plain(value), indent=2, default=str))


def show_result(output: Output, value: Any, text: str) -> None:
    """Print a result as it was asked for: `value` as JSON, or `text`."""
    if output is Output.JSON:
        show_json(value)
    else:
        show(text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in ("ca", "host_keys", "pinned")}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as wide as its content."""
    texts = [[in_a_line(str(cell)) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in texts) for index in range(len(columns))]
    for row in texts:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show that one thing is being done, and how long it took."""
    started = time.monotonic()
    screen = console()
    try:
        if screen.is_terminal:
            with screen.status(_safe(f"{text} ...")):
                yield
        else:
            say(f"  {text} ...")
            yield
    except BaseException:
        screen.print(f"[red]✗[/] {_safe(text)}")
        raise
    screen.print(f"[green]✓[/] {_safe(text)} [dim]({time.monotonic() - started:.1f} s)[/]")


def _safe(text: str) -> str:
    """Return text for rich, which would take words in brackets for markup."""
    from rich.markup import escape  # noqa: PLC0415 - as `console`

    return escape(in_a_line(text))


class Pulse:
    """Shows that what takes long is alive: a line that counts on a terminal, another line now and then elsewhere."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._console = console()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to show it."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._count if self._console.is_terminal else self._tell, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show it no longer. It may be started again."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _count(self) -> None:
        with self._console.status(_safe(self._text())) as shown:
            while not self._stopped.wait(_TICK):
                shown.update(_safe(self._text()))

    def _tell(self) -> None:
        while not self._stopped.wait(_SILENCE):
            say(f"  ... {self._text()}")


@contextmanager
def steps(waiting: Callable[[], str] = lambda: "") -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being done from now on, one thing after the other.

    While a run goes on, `waiting` says what is waited for.
    """
    current: list[tuple[str, float]] = []
    screen = console()
    pulse = Pulse(waiting)
    going = False
    live = screen.status("") if screen.is_terminal else None

    def finish(mark: str) -> None:
        pulse.stop()
        if live:
            live.stop()
        if current:
            text, started = current.pop()
            screen.print(f"{mark} {_safe(text)} [dim]({time.monotonic() - started:.1f} s)[/]")

    def begin(text: str) -> None:
        nonlocal going
        finish("[green]✓[/]")
        going = text.startswith("run ") or (going and text.startswith("Note:"))
        if text.startswith(("Note:", "run ")):
            say(f"  {text}")
            if going:
                pulse.start()
            return
        current.append((text, time.monotonic()))
        if live:
            live.update(_safe(f"{text} ..."))
            live.start()
        else:
            say(f"  {text} ...")

    try:
        yield begin
    except BaseException:
        finish("[red]✗[/]")
        raise
    finish("[green]✓[/]")


class DeployProgress:
    """Shows what every machine of a federation is at, while it is waited for."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._said: dict[str, str] = {}
        self._console = console()
        self._live: Any = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live  # noqa: PLC0415

            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        else:
            say(f"  {self._title} ...")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        mark = "[green]✓[/]" if kind is None else "[red]✗[/]"
        self._console.print(f"{mark} {_safe(self._title)} [dim]({self._elapsed:.1f} s)[/]")

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def update(self, status: FederationStatus) -> None:
        """Show a new status."""
        roles = ", ".join(f"{name} {state.lower()}" for name, state in status.roles.items())
        lines = {"service": f"{status.state.lower()}: {roles}"} | {vm.name: _vm_line(vm) for vm in status.vms}
        if self._live is not None:
            from rich.text import Text  # noqa: PLC0415

            body = "\n".join(f"  {in_a_line(name):14} {in_a_line(line)}" for name, line in lines.items())
            self._live.update(Text(f"  {in_a_line(self._title)}: {self._elapsed:.0f} s\n{body}"))
            return
        for name, line in lines.items():
            if self._said.get(name) != line:
                self._said[name] = line
                say(f"  {self._elapsed:5.1f} s  {in_a_line(name):14} {in_a_line(line)}")


def _vm_line(vm: Any) -> str:
    text = "ready" if vm.ready else vm.error or (f"{vm.state}: {vm.waits}" if vm.waits else vm.state)
    return text + (f", partition {vm.partition}" if vm.ready and vm.partition else "")


def program() -> str:
    """Return how this program is called from where the user stands: by its name only where that finds it.

    Whoever starts it in an environment of its own, as `make demo` does, says in ONEFLOWER_COMMAND what works outside.
    """
    if command := os.environ.get("ONEFLOWER_COMMAND"):
        return command
    called = Path(sys.argv[0])
    if called.name != "oneflower":
        return "oneflower"
    found = shutil.which("oneflower")
    return "oneflower" if found and Path(found).resolve() == called.resolve() else str(called)


_IN_COLUMNS = ("loss", "accuracy")
_MOST_OTHERS = 3


class RunTable:
    """Prints a run's rounds as they end."""

    def __init__(self) -> None:
        self._rows: list[RunRow] = []
        self._untested = False
        self._since = time.monotonic()

    def waiting(self) -> str:
        """Return which round is waited for, for how long, and how long it will all take if it goes on like this."""
        spent = time.monotonic() - self._since
        if not self._rows:
            return f"first round, {spent:.0f} s"
        last = self._rows[-1]
        if last.round >= last.rounds:
            return f"after the last round, {spent:.0f} s"
        usual = statistics.median(row.seconds for row in self._rows)
        left = max(0.0, usual * (last.rounds - last.round) - spent)
        return f"round {last.round + 1} of {last.rounds}, {spent:.0f} s; about {left:.0f} s to go"

    def add(self, row: RunRow) -> None:
        """Print one more round."""
        if not self._rows:
            # Where nobody tests the model there is the loss of training to look at, in a column of its own.
            self._untested = row.loss is None and row.train_loss is not None
            trained = f"  {'train loss':>10}" if self._untested else ""
            say(f"  {'round':>7}{trained}  {'loss':>8}  {'accuracy':>8}  {'seconds':>7}  nodes")
        self._rows.append(row)
        self._since = time.monotonic()
        trained = f"  {_number(row.train_loss):>10}" if self._untested else ""
        say(
            f"  {f'{row.round}/{row.rounds}':>7}{trained}  {_number(row.loss):>8}  {_number(row.accuracy):>8}  "
            f"{row.seconds:7.1f}  {row.share:>5}{_others(row)}"
        )
        for sentence in list_faults(row.faults):
            warn(f"           {sentence}")

    def curve(self) -> str:
        """Return the accuracy of the rounds as a line of bars, empty when there is none."""
        points = [row.accuracy for row in self._rows if row.accuracy is not None and math.isfinite(row.accuracy)]
        if not points:
            return ""
        bars = "▁▂▃▄▅▆▇█"
        low, high = min(points), max(points)
        scale = (len(bars) - 1) / ((high - low) or 1)
        return f"accuracy {points[0]:.3f} {''.join(bars[round((p - low) * scale)] for p in points)} {points[-1]:.3f}"


def _others(row: RunRow) -> str:
    """Return the first metrics besides loss and accuracy by which the round was tested."""
    tested = row.metrics.get("server") or row.metrics.get("evaluate") or {}
    found = [(name, value) for name, value in tested.items() if name not in _IN_COLUMNS and isinstance(value, float)]
    return "".join(f"  {name} {value:.3f}" for name, value in found[:_MOST_OTHERS])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def show_files(result: RunResult) -> None:
    """Name the files that a run left."""
    for name in ("model", "metrics", "plot", "card"):
        show(f"{name:8} {getattr(result, name) or 'none: the app trained no global model through a strategy'}")
    for path in result.more:
        show(f"{'more':8} {path}")
    if lost := result.not_saved:
        names = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
        warn(f"Note: {len(lost)} files of the app are too large or too many and stay on the SuperLink: {names}")


def progress_line(found: RunProgress) -> str:
    """Return how far a run is, and the last fault of a node below it."""
    line = f"run {found.id} of {found.app}: {found.status}"
    if found.row is not None:
        values = {"loss": found.row.loss, "accuracy": found.row.accuracy}
        known = "".join(f", {name} {value:.4f}" for name, value in values.items() if value is not None)
        line += f", round {found.round} of {found.rounds}{known}"
    line += f": {found.error}" if found.error else ""
    return line + (f"\n  In round {found.fault_round}, {found.fault.sentence}" if found.fault else "")
