"""When a schedule starts a run. The times of the lines are those that croniter 7 gives for them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest

from oneflower_appliance.cron import Timetable

BEGIN = datetime(2026, 12, 1, 1, 36, tzinfo=UTC)


def times(text, zone, after=BEGIN, number=3):
    return [f"{at:%Y-%m-%dT%H:%M%z}" for at in islice(Timetable.parse(text, zone).after(after), number)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * * * *", ["12-01T01:37", "12-01T01:38", "12-01T01:39"]),
        ("36 1 * * *", ["12-02T01:36", "12-03T01:36", "12-04T01:36"]),
        ("*/25 */11 * * *", ["12-01T11:00", "12-01T11:25", "12-01T11:50"]),
        ("5/20 3 * * *", ["12-01T03:05", "12-01T03:25", "12-01T03:45"]),
        ("0 22 * * 1-5", ["12-01T22:00", "12-02T22:00", "12-03T22:00"]),
        ("0 4 * * sat,7", ["12-05T04:00", "12-06T04:00", "12-12T04:00"]),
        ("0 0 13 * FRI", ["12-04T00:00", "12-11T00:00", "12-13T00:00"]),
        ("0 0 */2 dec 1", ["12-07T00:00", "12-21T00:00"]),
    ],
)
def test_a_line_has_the_times_that_cron_gives_it(line, expected):
    assert times(line, "UTC", number=len(expected)) == [f"2026-{when}+0000" for when in expected]


def test_lines_are_merged_and_a_leap_day_is_found():
    assert times("0 3 * * *; 0 2 2 * *; 0 3 2 * *", "UTC") == [
        "2026-12-01T03:00+0000", "2026-12-02T02:00+0000", "2026-12-02T03:00+0000",
    ]  # fmt: skip
    assert times("0 0 29 2 *", "UTC", datetime(2096, 3, 1, tzinfo=UTC), 1) == ["2104-02-29T00:00+0000"]


def test_a_time_that_the_clocks_skip_or_show_twice_comes_once():
    spring, autumn = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times("30 2 * * *", "Europe/Madrid", spring, 2) == ["2026-03-29T03:30+0200", "2026-03-30T02:30+0200"]
    assert times("*/30 2,3 * * *", "Europe/Madrid", spring, 3) == [
        "2026-03-29T03:00+0200", "2026-03-29T03:30+0200", "2026-03-30T02:00+0200",
    ]  # fmt: skip
    assert times("30 2 * * *", "Europe/Madrid", autumn, 2) == ["2026-10-25T02:30+0200", "2026-10-26T02:30+0100"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("0 2 * *", "has 4 fields, not 5"),
        ("0 2 * * *;", "'' has 0 fields"),
        ("60 2 * * *", "'60' is not a valid minute, from 0 to 59"),
        ("0 25 * * *", "'25' is not a valid hour"),
        ("0 2 0 * *", "'0' is not a valid day of the month"),
        ("0 2 * foo *", "'foo' is not a valid month"),
        ("0 2 * * 8", "'8' is not a valid weekday"),
        ("*/0 * * * *", "'*/0' is not a valid minute"),
        ("0 5-2 * * *", "'5-2' is not a valid hour: its end is before its start"),
        ("0,,1 2 * * *", "'' is not a valid minute"),
        ("@daily", "has 1 fields"),
        ("0 0 31 2,4 *", "never comes"),
        ("\N{ARABIC-INDIC DIGIT ONE} 0 * * *", "is not a valid minute"),
    ],
)
def test_a_line_that_is_not_valid_is_refused_with_what_is_wrong(line, wrong):
    with pytest.raises(ValueError, match=wrong.replace("*", "\\*").replace(".", "\\.")):
        Timetable.parse(line, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "../../etc/passwd", "/etc/localtime", "Europe"])
def test_a_zone_that_is_not_known_is_refused(zone):
    with pytest.raises(ValueError, match=f"^{zone}$"):
        Timetable.parse("0 2 * * *", zone)
