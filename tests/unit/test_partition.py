from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oneflower_appliance.agent.partition import Partitions


def test_the_first_deployment_counts_from_zero_in_the_order_of_the_nodes():
    assert dict(Partitions().after([17, 18, 19]).ids) == {17: 0, 18: 1, 19: 2}


def test_a_replacement_takes_the_freed_id_and_a_restart_keeps_its_own():
    first = Partitions().after([17, 18, 19])
    second = first.after([18, 19, 25])
    assert dict(second.ids) == {18: 1, 19: 2, 25: 0}
    assert second.after([18, 19, 25]) == second


def test_ids_always_lie_below_the_count_also_after_the_oldest_left():
    after = Partitions().after([1, 2, 3, 4, 5]).after([4, 5])
    assert dict(after.ids) == {4: 3, 5: 4}
    assert after.count == 5
    assert after.after([4, 5, 6]).ids[6] == 0


@pytest.mark.parametrize("text", ["", "4 17:0", "/x", "/2 17:0,18:1", "/2 17", "/2  17:0", "READY=YES"])
def test_garbage_is_no_table(text):
    with pytest.raises(ValueError):
        Partitions.parse(text)


class Scaling(RuleBasedStateMachine):
    """Nodes come and go in any order, several at a time, between two looks of the SuperLink's agent."""

    def __init__(self):
        super().__init__()
        self.nodes: list[int] = []
        self.next = 0
        self.table = Partitions()
        self.held: dict[int, int] = {}

    @rule(count=st.integers(1, 4))
    def boot(self, count):
        for _ in range(count):
            self.nodes.append(self.next)
            self.next += 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def leave(self, data):
        gone = data.draw(st.sampled_from(self.nodes))
        self.nodes.remove(gone)
        self.held.pop(gone, None)

    @rule()
    def look(self):
        self.table = self.table.after(self.nodes)
        for vm in self.nodes:
            number = self.table.ids[vm]
            assert self.held.setdefault(vm, number) == number, "a live node's id changed"

    @rule()
    def restart(self):
        self.table = Partitions.parse(str(self.table))

    @rule(data=st.data())
    def wrong_answer(self, data):
        """OneGate leaves out nodes for a moment, or all of them."""
        known = [vm for vm in self.nodes if vm in self.held]
        self.table = self.table.after(data.draw(st.lists(st.sampled_from(known), unique=True)) if known else [])
        self.look()

    @invariant()
    def no_two_live_nodes_hold_the_same_id(self):
        assert len(set(self.held.values())) == len(self.held)

    @invariant()
    def ids_lie_below_the_count(self):
        assert all(0 <= number < self.table.count for number in self.table.ids.values())


TestScaling = Scaling.TestCase
