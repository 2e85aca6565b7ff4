"""Every process of a federation is killed in every phase of a run, and every run ends where it would have ended."""

from __future__ import annotations

import os

import pytest

from .campaign import Campaign

pytestmark = pytest.mark.e2e

KILLS, SEED = 30, int(os.environ.get("CAMPAIGN_SEED", "1"))


def test_whatever_is_killed_whenever_no_run_is_lost_and_no_result_is_wrong(newcomer, record_property):
    report = Campaign(newcomer).run(KILLS, SEED)
    record_property("campaign", report.table)
    assert report.problems == [], report.table
    assert len(report.kills) == KILLS, report.table
