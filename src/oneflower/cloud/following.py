"""Follows a run on the SuperLink to its end, round by round, through the SuperLink's silences and restarts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import httpx

from oneflower.cloud.app_output import Shown, last_lines
from oneflower.cloud.news import Feed
from oneflower.cloud.reports import Machines, fetch
from oneflower.cloud.superlink import TIMEOUT, is_untrusted
from oneflower.events import Exchanged, InRound, Note
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.progress import with_names
from oneflower_appliance.run_folder import FAILURE, Failure, Messages
from oneflower_appliance.run_state import COMPLETED
from oneflower_appliance.runs import read_rows, shortcoming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oneflower.cloud.superlink import SuperLinkClient
    from oneflower.events import Notify
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.round_state import RoundState
    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.runs import RunRow


@dataclass(frozen=True)
class Observer:
    """Receives each round, the app's log and the current step. `names` are machines, by node id.

    `machine` is asked what the cloud knows of the SuperLink's machine when the SuperLink does not answer. `shown`
    is what a person sees of the log as it comes, which an error does not repeat. `partitions` are those of the nodes.
    `reports` receives what each node did in the rounds that have ended, if anybody wants to know. `ca` is asked for the
    CA that the SuperLink has by now, in PEM; it answers nothing if it does not know.
    """

    row: Callable[[RunRow], None]
    log: Callable[[str], None]
    notify: Notify
    names: Mapping[str, str] = field(default_factory=dict)
    machine: Callable[[], str] = lambda: "nothing is known of its machine"
    shown: Shown = Shown.NOTHING
    partitions: Mapping[str, str] = field(default_factory=dict)
    reports: Callable[[list[NodeReport]], None] | None = None
    ca: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Patience:
    """How long a run is followed while its SuperLink is silent, in seconds.

    `pulse` is the time between two looks at a SuperLink that does not hold requests for news. After `notice` the
    silence is reported, and after `silence` the run is given up. Within `grace` the SuperLink's agent resumes a lost
    run, if it can. `answer` is the limit for one answer.
    """

    pulse: float = 0.4
    notice: float = 3
    silence: float = 90
    grace: float = 15
    answer: float = TIMEOUT


USUAL = Patience()


def last_of(link: SuperLinkClient, number: str) -> str:
    """Return the id of the run that resumed `number`, however often it was lost, or `number` itself."""
    while successor := link.run(number).resumed_as:
        number = successor
    return number


def follow(link: SuperLinkClient, number: str, observer: Observer, patience: Patience = USUAL) -> str:
    """Follow a run to its end, and if it is lost, the run that resumes it. Returns the id of the last one.

    Raises `OneflowerError` with the app's own reason when it fails.
    """
    following, silence = _Following(link, number, observer, patience), _Silence(observer, patience)
    try:
        while True:
            link.wait_at_most(patience.answer if silence.told else patience.notice)
            try:
                if following.look(silence.ends):
                    return following.number
            except httpx.HTTPError as error:
                if is_untrusted(error):
                    link.trust(observer.ca())  # a run may be longer than the life of a CA
                silence.goes_on(error)
            if not following.held:
                time.sleep(patience.pulse)
    finally:
        link.wait_at_most(TIMEOUT)


class _Silence:
    """A time in which the SuperLink does not answer, or only with errors: reported soon, and tolerated for a while."""

    def __init__(self, observer: Observer, patience: Patience) -> None:
        self._patience = patience
        self._observer = observer
        self.told = False
        self._answered = time.monotonic()

    def ends(self) -> None:
        """Record that there was an answer."""
        if self.told:
            self._observer.notify(
                Note(f"the SuperLink answers again, after {time.monotonic() - self._answered:.0f} s.")
            )
        self.told = False
        self._answered = time.monotonic()

    def goes_on(self, error: httpx.HTTPError) -> None:
        """Report the silence once; raise `OneflowerError` if it lasts too long."""
        seconds = time.monotonic() - self._answered
        refused = error.response if isinstance(error, httpx.HTTPStatusError) else None
        if refused is not None and refused.status_code == httpx.codes.INSUFFICIENT_STORAGE:
            what = refused.text.strip()
        elif refused is not None:
            what = f"The SuperLink has answered with an error ({refused.status_code}) for {seconds:.0f} s."
        else:
            what = f"The SuperLink has not answered for {seconds:.0f} s."
        if seconds > self._patience.silence:
            hint = f"Look with `oneflower show`: {self._observer.machine()}. The run may still be running."
            raise OneflowerError(what, hint, ExitCode.RUN_FAILED) from error
        if not self.told and (seconds > self._patience.notice or refused is not None):
            self.told = True
            machine, longest = _sentence(self._observer.machine()), self._patience.silence
            self._observer.notify(Note(f"{what} {machine} Waiting up to {longest:.0f} s."))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


class _Following:
    """What was reported about a run so far."""

    def __init__(self, link: SuperLinkClient, number: str, observer: Observer, patience: Patience) -> None:
        self._grace = patience.grace
        self._hold = patience.notice / 2  # seconds
        self._link = link
        self._observer = observer
        self._told = 0  # a run that resumes another has its rounds, too
        self._reported = 0
        self._damaged = False
        self._trouble = self._waiting = ""
        self.held = False
        self._begin(number)

    def _begin(self, number: str) -> None:
        self.number = number
        self._feed = Feed(self._link, number, self._hold)
        self._tail = ""
        self._messages = Messages()
        self._doing: RoundState | None = None
        self._ended = 0.0

    def look(self, heard: Callable[[], None]) -> bool:
        """Report what is new; call `heard` as soon as the SuperLink has answered. Returns whether the run succeeded.

        Raises `OneflowerError` or `httpx.HTTPError`.
        """
        self.held = False
        news = self._feed.next()
        self.held, state, lines = news.held, news.state, self._feed.lines
        heard()
        if news.text:
            self._tail = (self._tail + news.text)[-8000:]
            self._observer.log(news.text)
        if news.messages and (found := Messages.parse(news.messages)) != self._messages:
            self._messages = found
            self._observer.notify(Exchanged(found.sentence))
        rows, damage = self._rows(lines[self._told :])
        for row in rows:
            self._observer.row(row)
        if damage and not self._damaged:
            self._observer.notify(Note(damage))
        self._damaged = self._damaged or bool(damage)
        self._told = max(self._told, len(lines))
        if news.now and (doing := replace(news.now, seconds=0.0)) != self._doing:
            self._doing = doing
            self._observer.notify(InRound(news.now.named(self._observer.names)))
        self._report(len(lines))
        waiting = with_names(state.waiting, self._observer.names)
        for said, before in ((state.trouble, self._trouble), (waiting, self._waiting)):
            if said and not before:
                self._observer.notify(Note(said))
        self._trouble, self._waiting = state.trouble, waiting
        if successor := state.resumed_as:
            self._observer.notify(
                Note(f"run {self.number} was lost; run {successor} resumes from its last checkpoint.")
            )
            self._begin(successor)
            return False
        return state.finished and self._is_over(state, lines)

    def _report(self, rounds: int) -> None:
        if self._observer.reports is not None and rounds > self._reported:
            machines = Machines(self._observer.names, self._observer.partitions)
            if found := list(fetch(self._link, self.number, self._reported, machines)):
                self._reported = found[-1].round
                self._observer.reports(found)

    def _is_over(self, state: RunState, lines: list[str]) -> bool:
        self._ended = self._ended or time.monotonic()
        if state.lost:
            if not state.given_up and time.monotonic() - self._ended < self._grace:
                return False
            raise _lost(self.number, state, lines)
        if state.sub_status != COMPLETED:
            raise self._failed(state)
        rows, _ = self._rows(lines)
        if rows and not any(row.nodes for row in rows):
            raise OneflowerError(
                f"Run {self.number} has failed. {shortcoming(rows)}",
                "Fix the ClientApp or the nodes' configuration; `oneflower logs` shows what the nodes said.",
                ExitCode.RUN_FAILED,
            )
        return True

    def _failed(self, state: RunState) -> OneflowerError:
        if said := self._link.json(f"/runs/{self.number}/files/{FAILURE}"):
            # A `OneflowerError` in the ServerApp says what is wrong and how to fix it. It is shown once.
            found = Failure.parse(said)
            return OneflowerError(f"Run {self.number} failed: {found.message}", found.hint, ExitCode.RUN_FAILED)
        return _failed(self.number, state, last_lines(self._tail, self._observer.shown))

    def _rows(self, lines: Sequence[str]) -> tuple[list[RunRow], str]:
        rows, damage = read_rows(lines)
        return [row.named(self._observer.names) for row in rows], damage


def _lost(run_id: str, state: RunState, lines: Sequence[str]) -> OneflowerError:
    """Return the sentences about a lost run that nothing resumes."""
    rows, _ = read_rows(lines)
    last = rows[-1] if rows else None
    when = f"after round {last.round} of {last.rounds}" if last else "before its first round had ended"
    return OneflowerError(
        f"Run {run_id} was lost {when}. {state.why_lost or state.details or state.sub_status}",
        state.given_up or "Nothing resumes it. See `oneflower logs`.",
        ExitCode.RUN_FAILED,
    )


def _failed(run_id: str, state: RunState, last: Sequence[str]) -> OneflowerError:
    reason = state.details or state.sub_status
    shown = "".join(f"\n  {line}" for line in last)
    return OneflowerError(
        f"Run {run_id} {state.sub_status}: {reason}" + (f"\nThe last lines of the app:{shown}" if shown else ""),
        "",
        ExitCode.RUN_FAILED,
    )
