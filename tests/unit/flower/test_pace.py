"""Bundles have the size that their line carries in twenty seconds, and two of them are on their way at a time."""

from __future__ import annotations

import threading

import pytest

from oneflower_appliance.flower.warm.bundles import PART
from oneflower_appliance.flower.warm.pace import AIM, FIRST, SMALLEST, Pace, two_at_a_time

SLOW = 1e6 / 8  # bytes a second: 1 Mbit/s


def test_a_fast_line_gets_whole_bundles_after_one_request_and_a_slow_one_what_it_can_carry():
    fast, slow = Pace(), Pace()
    fast.note(FIRST, FIRST / 100e6)
    assert fast.size == PART
    for _ in range(3):
        slow.note(slow.size, slow.size / SLOW)
        assert slow.size == pytest.approx(AIM * SLOW, rel=0.01)
    slow.note(slow.size, 4 * AIM)  # the line was cut meanwhile
    assert slow.size == pytest.approx(AIM * SLOW / 4, rel=0.01)
    slow.note(slow.size, slow.size / 100e6)
    assert slow.size == PART
    slow.note(2**23, 1e9)
    assert slow.size == SMALLEST


def test_little_that_takes_long_does_not_make_bundles_smaller():
    pace = Pace()
    pace.note(PART, 1.0)
    pace.note(1000, 5.0)
    assert pace.size == PART


@pytest.mark.parametrize(("rate", "trip", "overlaps"), [(100e6, 0.01, False), (100e6, 0.1, True), (SLOW, 0.1, False)])
def test_two_are_on_their_way_where_the_line_is_fast_and_long(rate, trip, overlaps):
    pace = Pace()
    assert not pace.overlaps
    for size in (5000, PART, PART):
        pace.note(size, trip + size / rate)
    assert pace.overlaps is overlaps


def test_the_second_begins_before_the_first_has_ended_and_no_third():
    both, running, most = threading.Barrier(2, timeout=10), [], []

    def work(number):
        running.append(number)
        most.append(len(running))
        both.wait()  # for the other one
        running.remove(number)
        return number

    assert list(two_at_a_time(work, range(4))) == [0, 1, 2, 3]
    assert max(most) == 2


def test_what_goes_wrong_in_one_of_them_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(two_at_a_time(lambda number: 1 // number, [1, 0, 2]))
