"""What the page changes: by the same calls as the command line, with the same sentences, after a confirmation."""

from __future__ import annotations

import threading
from dataclasses import replace
from unittest.mock import create_autospec

import pytest

from oneflower.api import Federation
from oneflower.events import Step
from oneflower.web import live
from oneflower.web.guard import CSRF_FIELD
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.settings import InvalidParametersError, Problem, resolve
from tests.web.conftest import LINK, NODE, RUN, STATUS


@pytest.fixture
def deploy(fake, monkeypatch):
    made = fake.federation()
    deploy = create_autospec(Federation.deploy, return_value=made)
    monkeypatch.setattr(Federation, "deploy", deploy)
    return deploy


def test_the_form_asks_for_every_variable(fake):
    text = fake.person().get("/new").text
    for name in PARAMETERS:
        assert f'name="{name}"' in text, name


def test_the_form_deploys_and_sends_only_what_differs_from_the_defaults(fake, deploy):
    answer = fake.submit(
        "/new", name="lab", supernodes="3", max_vms="5", FL_NUM_ROUNDS="3", FL_STRATEGY="FedAdam", X="1"
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/1")
    assert "Open lab" in fake.ended()
    _, supernodes, settings, name = deploy.call_args.args
    assert (supernodes, settings, name, deploy.call_args.kwargs["limits"]) == (
        3,
        {"FL_STRATEGY": "FedAdam"},
        "lab",
        (None, 5),
    )


def test_what_is_wrong_with_the_form_is_said_as_on_the_command_line_and_starts_nothing(fake, deploy):
    with pytest.raises(InvalidParametersError) as wrong:
        resolve({"FL_NUM_ROUNDS": "0", "FL_NUM_MALICIOUS": "1", "FL_STRATEGY": "Krum"})
    Federation.check.side_effect = wrong.value
    for path, status in (("/new", 422), ("/new/check", 200)):
        answer = fake.submit(path, name="lab", supernodes="2", FL_NUM_ROUNDS="0")
        assert answer.status_code == status
        for problem in wrong.value.problems:
            assert problem.text.replace("'", "&#39;").replace(">", "&gt;") in answer.text
    assert (
        'aria-describedby="FL_NUM_ROUNDS-help FL_NUM_ROUNDS-problem" aria-invalid="true"'
        in fake.submit("/new", name="lab", supernodes="2").text
    )
    assert "is &#39;many&#39;; expected a number." in fake.submit("/new", name="lab", supernodes="many").text
    assert not deploy.called


def test_everything_that_is_wrong_with_the_form_is_said_at_once(fake, deploy):
    def check(_cloud, _supernodes, _settings, name, _limits):
        if name == "my lab!":
            raise OneflowerError("'my lab!' is not a name.")
        if _settings:
            raise InvalidParametersError([Problem("FL_NUM_ROUNDS", "is '0'.")])
        return ()

    Federation.check.side_effect = check
    wrong = {"name": "my lab!", "supernodes": "two", "FL_NUM_ROUNDS": "0"}
    for given, fields in (
        (wrong, set(wrong)),
        (wrong | {"supernodes": "2"}, {"name", "FL_NUM_ROUNDS"}),
    ):
        text = fake.submit("/new/check", **given).text
        assert {name for name in wrong if f'data-field="{name}"' in text} == fields
    answer = fake.submit("/new", **wrong)
    assert ("3 answers are not valid" in answer.text, answer.text.count(" autofocus")) == (True, 1)


def test_the_form_begins_with_a_name_that_is_free(fake):
    assert 'value="lab"' in fake.person().get("/new").text
    fake.federation()
    assert 'value="lab-2"' in fake.person().get("/new").text


def test_an_error_leads_back_to_where_a_person_came_from(fake):
    fake.federation()
    page = f"{fake.keys.origin}/federations/7"
    for came_from, shown in ((page, True), ("http://evil.example/", False)):
        answer = fake.person(referer=came_from).post(
            "/federations/7/scale", data={CSRF_FIELD: fake.keys.csrf, "supernodes": "x"}
        )
        assert (f'href="{came_from}"' in answer.text) is shown


def test_a_deployment_that_goes_on_is_shown_with_the_federations(fake, deploy):
    free = threading.Event()
    deploy.side_effect = lambda *_, **__: free.wait(10)
    fake.submit("/new", name="lab", supernodes="2")
    assert "Deploying lab" in fake.stream(live.all_federations(fake.office), "/jobs/1")
    free.set()


def test_a_deployment_that_fails_says_why_and_what_to_do_also_after_a_reload(fake, deploy):
    def fail(*_, notify, **__):
        notify(Step("deploying lab"))
        raise OneflowerError("supernode_0: no disk", "Free some space.")

    deploy.side_effect = fail
    fake.submit("/new", name="lab", supernodes="5")
    assert "Free some space." in fake.ended()
    assert "/new?again=1" in fake.person().get("/jobs/1").text
    assert 'value="5"' in fake.person().get("/new?again=1").text, "the answers are kept"
    for _ in range(2):
        assert "supernode_0: no disk" in fake.person().get("/jobs/1").text
    assert fake.person().get("/jobs/2").status_code == 404


def test_one_thing_at_a_time_is_done_with_a_federation(fake):
    made, free = fake.federation(), threading.Event()
    made.recover.side_effect = lambda **_: free.wait(10)
    assert fake.submit("/federations/7/recover").status_code == 303
    answer = fake.submit("/federations/7/recover")
    assert (answer.status_code, "lab is busy: recovering lab." in answer.text) == (409, True)
    free.set()
    fake.ended()


def test_what_has_changed_a_federation_is_shown_for_a_while_and_a_failure_until_something_else_is_done(fake):
    made = fake.federation()

    def shown(title):
        fake.ended()
        text = fake.stream(live.one_federation(fake.office, 7, ""), "event: runs")
        return title in text

    made.recover.side_effect = OneflowerError("No.")
    fake.submit("/federations/7/recover")
    assert shown("✗")
    made.recover.side_effect = None
    fake.submit("/federations/7/recover")
    assert shown("✓</span> Recovering lab")
    fake.office.jobs.find(2).ended_at -= 100
    assert not shown("Recovering lab")


def test_a_deployment_is_rolled_back_when_the_page_ends(fake, deploy):
    began = threading.Event()

    def wait(*_, watch, **__):
        began.set()
        while True:
            watch(STATUS)

    deploy.side_effect = wait
    fake.submit("/new", name="lab", supernodes="2")
    began.wait(10)
    assert fake.leave() == [
        "Interrupting: deploying lab. Ctrl-C leaves it as it is.",
        "deploying lab: Interrupted. Nothing of it is left.",
    ]
    assert fake.leave() == []


def test_what_a_rollback_leaves_behind_is_said_when_the_page_ends(fake, deploy):
    def wait(*_, notify, **__):
        try:
            while True:
                notify(Step("waiting"))
        except KeyboardInterrupt as error:
            notify(Step("rolling back: removing lab"))  # which is not interrupted again
            error.add_note("Left behind: service 7.")
            raise

    deploy.side_effect = wait
    fake.submit("/new", name="lab", supernodes="2")
    assert fake.leave()[-1] == "deploying lab: Interrupted. Left behind: service 7."


def test_a_removal_is_waited_for_and_a_second_interrupt_says_how_to_go_on(fake, monkeypatch):
    made, free = fake.federation(), threading.Event()
    made.delete.side_effect = lambda: free.wait(10)
    fake.submit("/federations/7/remove")
    job = fake.office.jobs.find(1)
    with monkeypatch.context() as patch:
        patch.setattr(job.ended, "wait", create_autospec(job.ended.wait, side_effect=KeyboardInterrupt))
        assert fake.leave() == [
            "Waiting for: removing lab. Ctrl-C leaves it as it is.",
            "Left as it is: removing lab. Look with `oneflower show lab`; remove it with `oneflower down lab`.",
        ]
    free.set()
    fake.ended()


def test_an_app_is_started_with_what_the_form_says(fake):
    made = fake.federation()
    made.submit.return_value = "5"
    assert (
        fake.submit(
            "/federations/7/run",
            app="./app",
            rounds="4",
            config="a=1\r\n\r\nb='x'",
            install="yes",
            sites="north, -",
            min_sites="1",
        ).status_code
        == 303
    )
    fake.ended()
    made.submit.assert_called_once()
    assert made.submit.call_args.args == ("./app", 4, ["a=1", "b='x'"])
    said = made.submit.call_args.kwargs
    assert (said["install"], said["sites"], said["min_sites"]) == (True, ["north", " -"], 1)
    assert "expected an integer of at least 1" in fake.submit("/federations/7/run", rounds="0").text


def test_scaling_down_names_who_leaves_and_waits_for_a_yes(fake):
    made = fake.federation()
    made.leaving.return_value = [NODE]
    answer = fake.submit("/federations/7/scale", supernodes="0")
    assert ("supernode_0 is removed" in answer.text, made.scale.called) == (True, False)
    assert fake.submit("/federations/7/scale", supernodes="0", confirmed="yes").status_code == 303
    fake.ended()
    assert made.scale.call_args.args == (0,)
    made.leaving.side_effect = OneflowerError("lab cannot have 99 SuperNodes.", "Choose fewer.")
    assert "Choose fewer." in fake.submit("/federations/7/scale", supernodes="99").text
    assert "expected a number" in fake.submit("/federations/7/scale", supernodes="-1").text


def test_removing_names_what_is_lost_and_waits_for_a_yes(fake):
    made = fake.federation(replace(STATUS, vms=(LINK, NODE)))
    made.runs.return_value = (RUN, replace(RUN, id="4", status="finished", sub_status="completed"))
    text = fake.person().get("/federations/7/remove").text
    for lost in ("superlink_0, supernode_0", "Run 5 of oneflower/app, which is not over", "of these runs: 4"):
        assert lost in text
    made.runs.side_effect = OneflowerError("The SuperLink does not answer.")
    assert "not known" in fake.person().get("/federations/7/remove").text
    assert not made.delete.called
    assert fake.submit("/federations/7/remove").headers["location"] == "/jobs/1"
    fake.ended()
    assert made.delete.called


def test_a_site_is_approved_by_its_key_and_removed_after_a_yes(fake):
    made = fake.federation()
    for action, fields, call in (
        ("approve", {"of": "north/1", "key": "1" * 32}, made.sites.approve),
        ("suspend", {"of": "north"}, made.sites.suspend),
        ("remove", {"of": "north", "key": ""}, made.sites.remove),
    ):
        path = f"/federations/7/sites/{action}"
        assert fake.person().post(path, data=fields).status_code == 403, "without the CSRF token"
        assert fake.visitor(origin=fake.keys.origin).post(path, data=fields).status_code == 403
        assert not call.called
        answer = fake.submit(path, **fields)
        assert (answer.status_code, answer.headers["location"]) == (303, "/federations/7#sites")
    made.sites.approve.assert_called_once_with(["north/1"], ["1" * 32])
    made.sites.suspend.assert_called_once_with("north")
    made.sites.remove.assert_called_once_with("north", [])
    asked = fake.person().get("/federations/7/sites/remove?of=north")
    assert "Its invitation is revoked." in asked.text
    assert 'name="of" value="north"' in asked.text


def test_a_run_is_stopped_after_a_yes(fake):
    made = fake.federation()
    assert "is lost" in fake.person().get("/federations/7/runs/5/stop").text
    assert not made.stop.called
    assert fake.submit("/federations/7/runs/5/stop").status_code == 303
    made.stop.assert_called_once_with("5")


def test_a_problem_that_belongs_to_no_field_is_shown_too(fake, deploy):
    Federation.check.side_effect = InvalidParametersError([Problem("FL_NUM_ROUNDZ", "is not a variable.")])
    assert "FL_NUM_ROUNDZ" in fake.submit("/new/check", name="lab", supernodes="2").text
