"""The words of Flower that are counted on are those of the release that is installed."""

from __future__ import annotations

import inspect
import re

from flwr.supercore.corestate import sql_corestate

from oneflower_appliance.flower.wording import lost_its_heartbeat


def test_a_run_without_heartbeats_is_told_from_others_by_what_this_flower_writes():
    written = re.findall(r'details="([^"]+)"', inspect.getsource(sql_corestate))
    assert [text for text in written if lost_its_heartbeat(text)] == ["No heartbeat received from the task"]
    assert not lost_its_heartbeat("")
