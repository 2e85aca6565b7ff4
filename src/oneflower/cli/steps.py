"""Shows progress while something takes long: as a live display on a terminal, as plain lines anywhere else."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from oneflower.cli.living import SILENCE
from oneflower.cli.screen import console, safe, say
from oneflower.events import ConsoleLine, Event, Exchanged, InRound, Note, RunBegan, Step, StepEnded
from oneflower.printable import in_a_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.cli.living import LivingLine
    from oneflower.cloud import FederationStatus

_TICK = 0.5
_SPINNER = 3  # characters, and one that stays empty
_UNLIMITED = 10_000
_DONE, _FAILED = "[green]✓[/]", "[red]✗[/]"


class Pulse:
    """Shows that something long is still running.

    On a terminal, one line counts, every `tick` seconds; `text` is given its width. Elsewhere, another line is printed
    after each `silence`, unless there are lines that are `due`: then those are printed, and no other.
    """

    def __init__(
        self,
        text: Callable[[int], str],
        tick: float = _TICK,
        silence: float = SILENCE,
        due: Callable[[], str] | None = None,
    ) -> None:
        self._text = text
        self._tick = tick
        self._silence = silence
        self._due = due
        self._console = console()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, living: LivingLine, tick: float = _TICK) -> Self:
        """Return what shows what a run does."""
        return cls(living.text, tick, due=living.due)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start showing it."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._count if self._console.is_terminal else self._tell, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop showing it. It can be started again."""
        if self._thread is not None:
            self._stopped.set()
            with suppress(RuntimeError):  # Ctrl-C came before it had started; it then ends at once
                self._thread.join()
            self._thread = None

    def _count(self) -> None:
        with self._console.status(self._line()) as shown:
            while not self._stopped.wait(self._tick):
                shown.update(self._line())

    def _line(self) -> str:
        width = self._console.width - _SPINNER
        return safe(cut(self._text(width), width))

    def _tell(self) -> None:
        while not self._stopped.wait(self._tick if self._due else self._silence):
            if line := self._due() if self._due else self._text(_UNLIMITED):
                say(f"  ... {line}")


def cut(text: str, width: int) -> str:
    """Return a text that is at most so many characters wide."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


class Steps:
    """Shows one step after another, from events, and meanwhile the state of every machine, or how long it takes.

    While a run is running, `living` says what it does.
    """

    def __init__(self, living: LivingLine | None = None, tick: float = _TICK, silence: float = SILENCE) -> None:
        self._console = console()
        self._living = living
        self._pulse = Pulse.of(living, tick) if living else None
        self._counting = Pulse(self._counted, tick, silence)
        self._running = False
        self._text = ""
        self._since = 0.0
        self._said: dict[str, str] = {}
        self._table: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end(_DONE if kind is None else _FAILED)

    def notify(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Step(text):
                self._end(_DONE)
                self._running = False
                self._begin(text)
            case StepEnded(well):
                self._end(_DONE if well else _FAILED)
            case ConsoleLine():
                say(str(event))
            case Note() | RunBegan():
                self._end(_DONE)
                say(f"  {event}")
                self._running = self._running or isinstance(event, RunBegan)
                if self._running and self._pulse:
                    self._pulse.start()
            case InRound(state) if self._living:
                self._living.hear(state)
            case Exchanged(text) if self._living:
                self._living.exchanged(text)

    def watch(self, status: FederationStatus) -> None:
        """Show the state of every machine of a federation."""
        self._counting.stop()
        roles = ", ".join(f"{name} {state.lower()}" for name, state in status.roles.items())
        lines = {"service": f"{status.state.lower()}: {roles}"} | {vm.name: vm.line for vm in status.vms}
        if self._console.is_terminal:
            self._draw(lines)
            return
        for name, line in lines.items():
            if self._said.get(name) != line:
                self._said[name] = line
                say(f"  {self._elapsed:5.1f} s  {in_a_line(name):14} {in_a_line(line)}")

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._since

    def _begin(self, text: str) -> None:
        self._text, self._since, self._said = text, time.monotonic(), {}
        if not self._console.is_terminal:
            say(f"  {text} ...")
        self._counting.start()

    def _counted(self, _width: int) -> str:
        return f"{self._text}: {self._elapsed:.0f} s"

    def _draw(self, lines: dict[str, str]) -> None:
        from rich.live import Live  # noqa: PLC0415 - costs time that --help need not spend
        from rich.text import Text  # noqa: PLC0415

        if self._table is None:
            self._table = Live(console=self._console, transient=True, refresh_per_second=8)
            self._table.start()
        body = "\n".join(f"  {in_a_line(name):14} {in_a_line(line)}" for name, line in lines.items())
        self._table.update(Text(f"  {in_a_line(self._text)}: {self._elapsed:.0f} s\n{body}"))

    def _end(self, mark: str) -> None:
        for pulse in filter(None, (self._pulse, self._counting)):
            pulse.stop()
        if self._table is not None:
            self._table.stop()
            self._table = None
        if self._text:
            self._console.print(f"{mark} {safe(self._text)} [dim]({self._elapsed:.1f} s)[/]")
            self._text = ""


@contextmanager
def step(text: str) -> Iterator[Steps]:
    """Show one step, and how long it took. What is yielded shows the machines meanwhile."""
    with Steps() as steps:
        steps.notify(Step(text))
        yield steps
