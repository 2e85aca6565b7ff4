"""What a run does between two rounds: what its ServerApp writes, and the line that people see."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

from oneflower.cli import living, steps
from oneflower.cloud.pace import duration, seconds_left
from oneflower.events import Exchanged, InRound, Note, RunBegan
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.runs import RunRow
from oneflower_appliance.training import live_round

NODES = ("supernode_0", "supernode_1", "supernode_2", "supernode_3")


def row(number, rounds=5, seconds=10.0):
    return RunRow.parse(
        json.dumps({"round": number, "rounds": rounds, "seconds": seconds, "nodes": 2, "failures": 0}),
    )


@pytest.fixture
def now(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    for module in (living, live_round):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def training(number=2, answered=(), **more):
    return RoundState(Phase.TRAINING, number, 5, number, NODES, dict.fromkeys(answered, 1.0), **more)


def test_the_line_says_which_nodes_have_answered_which_not_yet_and_how_long_it_will_take(now):
    line = living.LivingLine()
    now[0] += 7
    assert line.text(80) == "first round · 7 s", "of an older SuperLink, or before it says anything"
    line.hear(training(1, seconds=3.0))
    now[0] += 1
    assert line.text(200) == (
        "round 1/5 · training 4 s · 0/4 answered · waiting for supernode_0, supernode_1, supernode_2, supernode_3"
    )
    line.end_round(row(1))
    now[0] += 3
    assert line.text(80) == "round 2/5 · 3 s · about 37 s left", "the phase was of the round before"
    line.hear(training(2, NODES[:3], failed=NODES[:1]))
    assert line.text(200) == (
        "round 2/5 · training 0 s · 3/4 answered, 1 failed · waiting for supernode_3 · about 37 s left"
    )
    now[0] += 90
    assert line.text(200) == "round 2/5 · training 90 s · 3/4 answered, 1 failed · late: supernode_3", "for how long?"
    line.hear(RoundState(Phase.AGGREGATING, 2, 5))
    assert line.text(80) == "round 2/5 · aggregating 0 s · about 30 s left"
    line.end_round(row(5))
    now[0] += 2
    assert line.text(80) == "after the last round · 2 s"


@pytest.mark.parametrize("late", [False, True])
def test_a_narrow_terminal_gets_the_round_the_phase_and_who_is_late(now, late):
    line = living.LivingLine()
    line.end_round(row(1))
    line.hear(training(2, NODES[:2], seconds=9.0, usual=None if late else 8.0))
    for width in range(27, 130):
        text = line.text(width)
        assert len(text) <= width
        assert text.startswith("round 2/5 · training 9 s")
        assert ("late: supernode_2" in text) == (late and width >= 55), text
    assert "supernode_2, supernode_3" in line.text(77), "two names are worth more than the time that is left"
    longest = line.text(130)
    assert "supernode_3" in longest
    assert "supernode_2 and 1 more" in line.text(len(longest) - 1)


def test_an_app_without_a_strategy_has_its_messages_and_who_has_not_answered(now):
    line = living.LivingLine()
    line.exchanged("3 messages sent, 1 answered")
    line.hear(RoundState(Phase.ASKING, asked=NODES[:2], answered={NODES[0]: 1.0}))
    assert line.text(80) == "3 messages sent, 1 answered · asking 0 s · waiting for supernode_1"


def test_a_node_is_late_by_what_is_usual():
    assert training(answered=NODES[:1]).late(1000) == (), "nobody can say, before half of them have answered"
    assert training(answered=NODES[:2]).late(3.9) == ()
    assert training(answered=NODES[:2]).late(4.1) == NODES[2:]
    assert training(usual=30.0, answered=NODES[:2]).late(61) == (), "one of them always takes that long"
    assert training(usual=30.0).late(63) == NODES
    assert RoundState(Phase.AGGREGATING, usual=1.0).late(100) == ()


def test_how_long_a_run_will_take_is_known_after_its_first_round():
    assert seconds_left([], 5.0) is None
    assert seconds_left([row(1, seconds=60.0)], 10.0) == 230
    assert seconds_left([row(1, seconds=60.0), row(2, seconds=10.0)], 25.0) == 20, "the first one was an exception"
    assert seconds_left([row(5)], 3.0) == 0
    assert [duration(seconds) for seconds in (99.4, 100, 5940, 6000, 7300)] == ["99 s", "2 min", "99 min", "1 h 40 min", "2 h 02 min"]  # fmt: skip


def test_off_a_terminal_a_phase_has_one_line_and_one_more_when_nodes_are_late(now, monkeypatch):
    line, said = living.LivingLine(), []
    monkeypatch.setattr(steps, "console", lambda: SimpleNamespace(is_terminal=False))
    monkeypatch.setattr(steps, "say", said.append)
    line.end_round(row(1))

    def wait(seconds):
        for _ in range(seconds):
            now[0] += 1
            if text := line.due():
                said.append(text)

    line.hear(training(2, usual=20.0))
    wait(14)
    assert said == [], "a short phase needs no line"
    wait(25)
    [one] = said
    assert one.startswith("round 2/5 · training 15 s · 0/4 answered · waiting for supernode_0, ")
    line.hear(training(2, NODES[:3], usual=20.0, seconds=39.0))
    wait(100)
    [late] = said[1:]
    assert late.startswith("round 2/5 · training 42 s · 3/4 answered · late: supernode_3")
    line.hear(RoundState(Phase.EVALUATING, 2, 5, 3.0, NODES))
    wait(100)
    assert len(said) == 3


def test_the_line_hears_what_a_run_says_and_nothing_is_shown_for_a_program(monkeypatch):
    monkeypatch.setattr(steps, "say", lambda text: None)
    heard = []
    line = SimpleNamespace(hear=heard.append, exchanged=heard.append, text=None, due=lambda: "")
    with steps.Steps(line) as shows:
        for event in (RunBegan("5"), Exchanged("3 messages"), InRound(training()), Note("well")):
            shows.notify(event)
    assert heard == ["3 messages", training()]
    with steps.Steps(None) as shows:
        shows.notify(RunBegan("5"))
        shows.notify(InRound(training()))


def test_a_phase_reads_as_a_sentence_too():
    assert str(InRound(training(2, NODES[:3]))) == ("round 2/5, training, 3/4 answered, waiting for supernode_3")
    state = RoundState(Phase.TRAINING, 1, 2, 0.0, ("7", "8"), {"7": 1.5}, ("7",)).named({"7": "supernode_0"})
    assert (state.asked, state.missing, state.failed) == (("node 8", "supernode_0"), ("node 8",), ("supernode_0",))
    of_ten = RoundState(Phase.TRAINING, asked=("1", "2")).named({"1": "supernode_10", "2": "supernode_9"})
    assert of_ten.asked == ("supernode_9", "supernode_10"), "in the order in which people count"
    chosen = RoundState(Phase.CHOOSING, 1, 2)
    assert [chosen.doing(1.0), chosen.doing(3.0)] == ["choosing nodes", "waiting for nodes"]
    assert RoundState.parse(json.loads(json.dumps(state.entry))) == state


class Sent(SimpleNamespace):
    def __init__(self, node, kind="train"):
        super().__init__(dst_node_id=node, message_id=f"{node}-{id(self)}", message_type=kind)


@pytest.fixture
def live(tmp_path, now, monkeypatch):
    """A live round whose writer writes when it is told to."""
    writes = []
    monkeypatch.setattr(live_round.threading, "Thread", lambda target, **_: SimpleNamespace(start=lambda: None, join=lambda: writes.append(target)))  # fmt: skip
    return live_round.LiveRound(tmp_path)


def test_a_strategys_phases_are_told_with_who_answered_and_what_was_usual(live, now):
    live.begin(Phase.TRAINING, 1, 3, [1, 2])
    sent = [Sent(1), Sent(2)]
    live.note_sent(sent)
    now[0] += 2
    live.note_answer(sent[0], failed=False)
    now[0] += 2
    live.note_answer(sent[1], failed=True)
    state = live.state
    assert (state.phase, state.round, state.rounds, state.asked) == ("training", 1, 3, ("1", "2"))
    assert (state.answered, state.failed, state.missing) == ({"1": 2.0, "2": 4.0}, ("2",), ())
    again = Sent(1)  # as in secure aggregation, which asks several times
    live.note_sent([again])
    assert live.state.missing == ("1",)
    live.note_answer(again, failed=False)
    live.begin(Phase.AGGREGATING, 1, 3)
    assert (live.state.asked, live.state.usual) == ((), None)
    live.begin(Phase.TRAINING, 2, 3, [1, 2])
    assert (live.state.usual, live.state.missing) == (4.0, ("1", "2"))
    live.note_answer(sent[0], failed=False)
    assert live.state.missing == ("1", "2"), "an answer to the round before"


def test_what_an_app_without_a_strategy_sends_begins_phases_by_itself(live, now):
    first = [Sent(1, "query"), Sent(2, "query.sizes")]
    for message in first:  # one by one, perhaps by threads
        live.note_sent([message])
    assert (live.state.phase, live.state.round, live.state.asked) == ("asking", 0, ("1", "2"))
    live.note_answer(first[0], failed=False)
    second = Sent(1)
    live.note_sent([second])
    assert (live.state.phase, live.state.missing) == ("training", ("2", "1")), "the other one still owes an answer"
    live.note_answer(first[1], failed=False)
    assert live.state.missing == ("1",)
    two = [Sent(3), Sent(3)]
    live.note_sent(two)
    live.note_answer(two[0], failed=False)
    assert live.state.missing == ("1", "3"), "a node has answered when it has answered all"


def test_fifty_answers_are_few_writes_and_the_last_one_is_among_them(tmp_path, monkeypatch):
    written, beside, done = [], [], threading.Event()

    def write(path, content, mode, *, synced):
        assert not synced, "a wait for the disk"
        written.append(json.loads(content))
        path.write_text(content)
        if len(written) == 1:  # the others come while it writes
            for message in sent:
                live.note_answer(message, failed=False)
        elif len(written[-1]["answered"]) == 50:
            done.set()

    monkeypatch.setattr(live_round, "write_atomic", write)
    monkeypatch.setattr(live_round, "_INTERVAL", 0.0)
    live = live_round.LiveRound(tmp_path, lambda: beside.append(len(written)))
    sent = [Sent(node) for node in range(50)]
    live.begin(Phase.TRAINING, 1, 2, range(50))
    live.note_sent(sent)
    assert done.wait(20)
    assert len(written) <= 3
    live.close()
    assert beside == list(range(1, len(written) + 1)), "the counts of an app without a strategy go with it"
    assert not (tmp_path / "now.json").exists(), "it is only about runs that go on"
