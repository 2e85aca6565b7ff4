"""The page in a real browser: somebody who knows nothing of the command line deploys, trains and finds what is wrong.

With ONEFLOWER_SCREENSHOTS=docs/pictures it makes the pictures of docs/see-it.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from .browser import DESK, PHONE, Person, chromium  # noqa: F401 - a fixture
from .conftest import RELEASE, until
from .test_faults import FLOWER, kill

pytestmark = pytest.mark.e2e


@pytest.fixture
def address(newcomer):
    """The address that `oneflower ui` prints. It ends by Ctrl-C, as a person ends it."""
    process, lines = newcomer.say("ui", "--no-browser")
    yield until(lambda: next(iter(re.findall(r"http://\S+", "".join(lines))), None), 30, "the address")
    process.send_signal(2)
    assert process.wait(20) == 0
    assert "Traceback" not in lines.all()


def deploy(person):
    """Deploy without a mouse."""
    page = person.page
    page.get_by_text("There is no federation yet.").wait_for()
    person.reach("a[href='/new']:not(nav a)")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Deploy a federation").wait_for()
    person.write("#name", "lab")
    person.write("#supernodes", "3")
    person.write("#FL_NUM_ROUNDS", "0")
    page.keyboard.press("Tab")
    page.locator("#problems li", has_text="is '0'; expected an integer of at least 1.").wait_for()
    page.evaluate("scrollTo(0, 0)")  # what is wrong stays in sight
    person.picture("form")
    person.reach("#problems a")
    page.keyboard.press("Enter")  # which leads to the answer
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    person.reach("details:has(#FLOWER_VERSION) > summary")
    page.keyboard.press("Enter")
    person.write("#FLOWER_VERSION", RELEASE[:-1])  # while somebody is writing, it may be looked at
    page.locator("#problems [data-field=FLOWER_VERSION]").wait_for()
    page.keyboard.type(RELEASE[-1])  # and again when it is whole, also if it is what stood there before
    person.reach("#deploy button")
    page.locator("#problems li").wait_for(state="detached")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="deploying lab").wait_for()
    page.reload()  # it continues
    page.wait_for_url("**/federations/*")
    page.get_by_text("4 of 4 machines ready").wait_for()


def break_a_node(user, page):
    """Kill Flower on a node until a round is without it: between two tasks, it may be back in time for the next."""
    from playwright import sync_api  # of a dependency group of its own

    broken = next(vm for vm in user.show("lab")["vms"] if vm["name"] == "supernode_1")
    missed = page.locator("#rounds tr.odd", has_text="supernode_1").first

    def missing():
        with contextlib.suppress(AssertionError):  # it is being started again
            kill(user.process(broken["id"], FLOWER, "supernode"))
        with contextlib.suppress(sync_api.TimeoutError):
            missed.wait_for(timeout=10_000)
        return missed.is_visible()

    until(missing, 120, "a round without the node")


def train(person, rounds):
    person.page.fill("#rounds-wanted", str(rounds))
    person.page.get_by_role("button", name="Train").click()


def see_it_in_other_ways(person):
    page = person.page
    for name, scheme in (("light", "light"), ("dark", "dark")):
        page.emulate_media(color_scheme=scheme)
        page.locator("#rounds tr.odd").first.wait_for()
        page.locator("#node-curve canvas").wait_for()
        person.picture(name, clip={"x": 0, "y": 0, "width": DESK["width"], "height": 1500}, full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(PHONE)
    page.locator("#node-curve canvas").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "a phone need not scroll sideways"
    person.picture("phone")
    page.set_viewport_size(DESK)


def stop(person):
    page = person.page
    page.get_by_role("link", name="Stop …").click()
    page.get_by_text("The round that is running is lost.").wait_for()
    page.get_by_role("button", name="Stop the run").click()
    page.locator("#training [role=alert]", has_text="stopped").wait_for()
    assert json.loads(saved(page, "Metrics"))["rows"], "a run without a model has its metrics to save"
    assert b"ROUND" in saved(page, "Log")


def saved(page, name):
    """What is saved by the link of this name."""
    with page.expect_download() as found:
        page.get_by_role("link", name=name, exact=True).click()
    return Path(found.value.path()).read_bytes()


def scale(person):
    page = person.page
    page.get_by_text("4 of 4 machines ready").wait_for()
    page.fill("#supernodes", "2")
    page.get_by_role("button", name="Scale").click()
    page.get_by_text("supernode_0 is removed").wait_for()
    page.get_by_role("button", name="Remove them").click()
    page.get_by_text("3 of 3 machines ready").wait_for()


def remove(person):
    page = person.page
    page.get_by_role("link", name="Remove …").click()
    page.get_by_text("superlink_0, supernode_1, supernode_2").wait_for()
    person.picture("remove")
    page.get_by_role("button", name="Remove lab").click()
    page.get_by_text("There is no federation yet.").wait_for()


def test_a_newcomer_deploys_trains_and_finds_the_node_that_failed(newcomer, address, chromium):  # noqa: F811
    """All that the page does, once, on a real federation: nothing else shows that its parts work together."""
    person = Person(chromium)
    page = person.page
    page.goto(address)
    deploy(person)
    train(person, 300)
    page.locator("#rounds tbody tr", has_text="2/300").wait_for()
    page.locator("#model-curve canvas").wait_for()

    break_a_node(newcomer, page)
    page.locator("#nodes tr", has_text="supernode_1").filter(has_text="round").wait_for()
    see_it_in_other_ways(person)
    stop(person)
    scale(person)

    train(person, 2)
    ended = page.locator("#training", has_text="round 2 of 2")
    ended.get_by_role("link", name="Model", exact=True).wait_for()
    assert np.load(io.BytesIO(saved(page, "Model"))).files
    asked = len(person.asked)
    page.wait_for_timeout(1500)
    assert person.asked[asked:] == [], "beside its stream of events, a page asks nothing"
    remove(person)
    assert person.wrong == []
    assert all(url.startswith(address.partition("/enter")[0]) for url in person.asked), "nothing comes from elsewhere"
