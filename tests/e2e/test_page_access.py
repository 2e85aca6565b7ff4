"""Every page, light and dark, in a real browser, looked at by axe-core: people who see little or nothing can use it."""

from __future__ import annotations

import threading
from dataclasses import replace
from unittest.mock import create_autospec

import pytest

from oneflower.api import Federation, Logs, NodeReport, RunRow, RunState, SiteStatus
from oneflower.cloud.sites import SiteNode
from oneflower.events import Note, Step
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.runs import Fault
from tests.web.conftest import LINK, NODE, STATUS, Fake

from .browser import PHONE, Person, chromium, serving  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e

SICK = replace(NODE, id=3, name="supernode_" + "long" * 12, ready=False, error="no disk", partition="1")
BUSY = replace(STATUS, vms=(LINK, NODE, SICK), remarks=("A remark.",), causes=("supernode_1: no disk",))
FAULT = Fault("3", "train", "failed", "FileNotFoundError: /data", SICK.name)


def followed(_run, *, on_row, on_reports, on_log, notify):
    for number in (1, 2):
        on_row(RunRow(number, 3, 0.5, 1, 1, 1 / number, 0.5, {}, 2, faults=(FAULT,)))
        on_reports([NodeReport(number, "2", "train", seconds=1.0, metrics={"train_loss": 0.5}, name=NODE.name),
                    NodeReport(number, "3", "train", fault="failed", reason="no data", name=SICK.name)])  # fmt: skip
    on_log("a line\n")
    notify(Note("a note"))
    raise OneflowerError("Run 5 failed.", "Look at its log.")


def north():
    """A site with a node that asks and one that takes part."""
    nodes = (
        SiteNode(f"north/{number}", standing, online, f"{number}" * 32, "9", "", "10.0.0.9", "2026-11-30T12:30")
        for number, standing, online in ((0, "asked", False), (1, "approved", True))
    )
    return SiteStatus("north", 2, open=True, expires=4e9, approves=False, suspended=False, nodes=tuple(nodes))


def approve_by_keyboard(page, made):
    page.get_by_role("button", name="Approve north/0").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**#sites")
    made.sites.approve.assert_called_once_with(["north/0"], ["0" * 32])


@pytest.fixture
def fake(monkeypatch):
    made = Fake(monkeypatch)
    made.free = threading.Event()

    def wait(*_, watch, notify, **__):
        notify(Step("building"))
        watch(BUSY)
        made.free.wait(60)
        raise OneflowerError("The disk is full.", "Free some space.")

    monkeypatch.setattr(Federation, "deploy", create_autospec(Federation.deploy, side_effect=wait))
    with serving(made):
        yield made
        made.free.set()
    made.leave()


def test_no_page_has_a_barrier_that_axe_knows(fake, chromium):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe  # of a dependency group of its own

    person, seen = Person(chromium), []
    page, axe = person.page, Axe()

    def look(what):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = axe.run(page).response["violations"]
            seen.append(f"{what}, {scheme}")
            assert not found, [
                (what, scheme, one["id"], [node["html"][:300] for node in one["nodes"]]) for one in found
            ]

    page.goto(fake.keys.address)
    page.get_by_text("There is no federation yet.").wait_for()
    look("no federation")
    page.get_by_role("link", name="Deploy a federation").click()
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    look("form")
    page.fill("#supernodes", "many")
    page.keyboard.press("Tab")
    page.locator("#problems li").wait_for()
    look("form, checked")
    page.locator("#deploy button").click()
    page.locator("#refused").wait_for()
    look("form, refused")
    page.fill("#supernodes", "2")
    page.keyboard.press("Tab")
    page.locator("[aria-invalid], #refused").first.wait_for(state="detached")  # it is right now
    page.locator("#deploy button").click()
    page.get_by_text(SICK.name).wait_for()
    look("job")
    fake.free.set()
    page.get_by_text("Free some space.").wait_for()
    look("job, failed")

    made = fake.federation(BUSY)
    made.runs.return_value = (RunState("5", "oneflower/app", "running"),)
    made.follow.side_effect = followed
    made.sites.all.return_value = (north(),)
    made.logs.return_value = Logs(("a line",), BUSY.vms, {NODE.name: ["a line"]}, "a note")
    one = f"{fake.keys.origin}/federations/7"
    page.goto(fake.keys.origin)
    page.get_by_role("link", name="lab").wait_for()
    look("federations")
    page.goto(one)
    page.locator("#node-curve canvas").wait_for()
    look("federation")
    approve_by_keyboard(page, made)
    page.set_viewport_size(PHONE)
    look("federation, phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "a phone need not scroll sideways"
    for what in ("logs", "remove", "runs/5/stop", "sites/remove?of=north", "nothing"):
        page.goto(f"{one}/{what}")
        look(what)
    assert len(seen) == 28
    assert [wrong for wrong in person.wrong if "of 422" not in wrong and "of 404" not in wrong] == []
