"""What a machine of a site looks at before it takes part, and what of it the coordinator learns."""

from __future__ import annotations

import json
import ssl

import numpy as np
import pytest
from PIL import Image

from oneflower.cloud.site_check import check_from_here
from oneflower.cloud.status import FederationStatus, VmStatus
from oneflower_appliance.agent import supernode
from oneflower_appliance.agent.answers import answer
from oneflower_appliance.agent.data_folder import data_folder
from oneflower_appliance.agent.data_summary import DataSummary
from oneflower_appliance.agent.self_check import check_without_joining
from oneflower_appliance.agent.site_checks import look_at_data, look_at_superlink, refusal
from oneflower_appliance.checks import FAIL, OK, WARN, Check, Topic, known_topics, pack, troubles, unpack
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.joining import Standing
from oneflower_appliance.proxy import ProxyError
from oneflower_appliance.settings import resolve
from oneflower_appliance.sites import Place, Site, SiteNode, Sites


def summary(folder, patience=5.0, **clock):
    return [(check.status, check.detail) for check in DataSummary(folder, patience, **clock).checks()]


def test_tables_are_counted_with_their_classes_and_what_is_missing(tmp_path):
    rows = "".join(f"{number},{'' if number % 4 == 0 else number},{number % 2}\n" for number in range(8))
    (tmp_path / "a.csv").write_text("age,dose,label\n" + rows)
    (tmp_path / "b.csv").write_text("age,label\n1,1\n2,1\n")
    (tmp_path / "c.parquet").write_bytes(b"no table")
    found = summary(tmp_path)
    assert (OK, "a.csv: 8 rows, 3 columns; label: 4 of 0, 4 of 1") in found
    assert (WARN, "a.csv: values are missing in dose (2), of 8 rows") in found
    assert (WARN, "b.csv: every row has the same label") in found
    assert (WARN, "a.csv and b.csv have different columns: dose") in found
    assert any(status == FAIL and "c.parquet cannot be read" in detail for status, detail in found)


def test_images_lines_and_arrays_are_looked_at_where_they_are(tmp_path):
    for name, count in (("cats", 2), ("dogs", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 3)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cats" / "torn.png").write_bytes(b"no image")
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a", "completion": "b"}\nnonsense\n')
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan]]))
    found = summary(tmp_path)
    assert (OK, "4 images in 2 folders: 3 of cats, 1 of dogs") in found
    assert (WARN, "only one image is in dogs") in found
    assert (OK, "their sizes: 3 of 4 x 3 RGB") in found
    assert (WARN, "1 file cannot be read as images: cats/torn.png") in found
    assert (WARN, "asked.jsonl: 1 of 2 lines are not JSON objects") in found
    assert (WARN, "x.npy: 1 values of it are not finite") in found


def test_no_value_of_the_data_is_in_what_is_published(tmp_path):
    (tmp_path / "a.csv").write_text("name,label\nMoriarty,0\nAdler,1\n")
    assert "Moriarty" not in pack(DataSummary(tmp_path, 5.0).checks())


def test_a_label_with_as_many_values_as_rows_is_not_spelled_out(tmp_path):
    (tmp_path / "a.csv").write_text("y\n" + "".join(f"{number}.5\n" for number in range(60)))
    assert (OK, "a.csv: 60 rows, 1 column") in summary(tmp_path)


def test_large_data_delays_no_boot(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("x\n1\n")
    times = iter([0.0, 9.0])
    found = summary(tmp_path, 5.0, clock=lambda: next(times, 9.0))
    assert (OK, "2 more tables were not looked into, for lack of time") in found


def test_the_agent_looks_through_a_process_of_its_own_and_survives_its_end(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("age,label\n1,0\n2,1\n")
    found = list(look_at_data(tmp_path, 5.0))
    assert (OK, "a.csv: 2 rows, 2 columns; label: 1 of 0, 1 of 1") in [(each.status, each.detail) for each in found]
    monkeypatch.setattr("oneflower_appliance.agent.data_summary.sys.executable", "/bin/false")
    [failed] = look_at_data(tmp_path, 5.0)
    assert (failed.status, "could not be looked into" in failed.detail) == (WARN, True)


def test_an_empty_folder_fails_and_one_that_does_not_exist_is_refused(tmp_path):
    assert summary(tmp_path) == [(FAIL, f"{tmp_path} has no files")]
    with pytest.raises(OneflowerError, match="does not exist"):
        data_folder("FL_DATA_PATH", str(tmp_path / "nothing"), tmp_path)


class Probe:
    """A SuperLink that answers, with a clock that differs."""

    def __init__(self, ahead=0.0, *, answers=True):
        self._ahead, self._answers = ahead, answers

    def fleet_answers(self, _endpoint):
        return self._answers

    def clock_difference(self, _endpoint):
        return self._ahead


@pytest.mark.parametrize(("ahead", "status"), [(1, OK), (-60, WARN), (60, WARN), (301, FAIL), (-9999, FAIL)])
def test_the_clock_is_compared_with_that_of_the_superlink(ahead, status):
    [reached, clock] = look_at_superlink("lab:9092", Probe(ahead))
    assert (reached.status, clock.what, clock.status) == (OK, Topic.CLOCK, status)
    assert clock.status == OK or "NTP" in clock.fix


def test_what_keeps_a_machine_away_says_how_to_correct_it():
    [other] = look_at_superlink("lab:9092", Probe(answers=False))
    assert (other.status, "not as a SuperLink" in other.detail) == (FAIL, True)
    proxied = refusal(Topic.SUPERLINK, ProxyError("the proxy says no", 403))
    assert (proxied.status, "443" in proxied.fix) == (FAIL, True)
    assert refusal(Topic.SUPERLINK, ssl.SSLCertVerificationError("x")).what == Topic.CERTIFICATE


def test_a_check_without_joining_names_what_does_not_answer_and_goes_through_the_rest(tmp_path):
    invitation = Invitation.make("north", 1, "127.0.0.1:1", "ab" * 32)
    (tmp_path / "data").mkdir()
    given = {"FL_INVITATION": invitation.text(), "FL_DATA_PATH": str(tmp_path / "data")}
    found = {check.what: check for check in check_without_joining(resolve(given, supernode.LEVELS), tmp_path)}
    assert (found[Topic.SUPERLINK].status, found[Topic.DATA].status) == (FAIL, FAIL)
    assert "Let TCP through" in found[Topic.SUPERLINK].fix
    assert set(found) >= {Topic.POLICY, Topic.DISK, Topic.GPU}


def test_the_agent_answers_a_person_and_a_program_and_shows_no_secret(tmp_path, capsys):
    invitation = Invitation.make("north", 1, "127.0.0.1:1", "ab" * 32).text()
    (tmp_path / "context.sh").write_text(f"FL_INVITATION='{invitation}'\n")

    class Options:
        command, json, context, home = "check", False, tmp_path, tmp_path

    assert answer(Options) == 9
    text = capsys.readouterr().out
    Options.json = True
    assert answer(Options) == 9
    said = capsys.readouterr().out
    assert {check["what"] for check in json.loads(said)} >= {"SuperLink", "data"}
    assert "fail SuperLink" in text
    assert invitation.split(".")[1] not in text + said


def test_the_client_asks_the_appliances_own_check_before_anything_is_deployed(tmp_path, monkeypatch):
    asked = []

    def run(command, *_rest, **_more):
        asked.append((tmp_path / "x").parent and command)
        return pack([Check(OK, Topic.DISK, "enough")])

    monkeypatch.setattr("oneflower.cloud.site_check.process.run", run)
    assert check_from_here(tmp_path, None, {"FL_GPU_ENABLED": "YES"}, tmp_path)[0].what == Topic.DISK
    monkeypatch.setattr("oneflower.cloud.site_check.process.run", lambda *_rest, **_more: "")
    with pytest.raises(OneflowerError, match="printed nothing"):
        check_from_here(tmp_path, None, {}, tmp_path)


def test_what_is_published_is_read_again_and_garbage_is_nothing():
    found = (Check(FAIL, Topic.DATA, "a", "b"), Check(OK, Topic.DISK, "c"))
    assert unpack(pack(reversed(found))) == found
    assert len(unpack(pack([Check(OK, Topic.DATA, "x" * 999)] * 99))) == 40
    assert [unpack(text) for text in ("", "{", "[1]", '[{"x": 1}]', '[{"status": "?", "what": "", "detail": ""}]')] == [
        ()
    ] * 5
    assert troubles(found) == [found[0]]


def test_the_coordinator_learns_topics_and_nothing_else():
    assert known_topics(iter(["data", "Moriarty\x1b[31m", 7, "clock", "data"])) == (Topic.CLOCK, Topic.DATA)
    node = SiteNode(0, "key", "f", Standing.APPROVED, "7", troubles=(Topic.CLOCK, Topic.DATA))
    site = Site("north", 1, 1, "i", "v", 0.0, nodes=(node,))
    [place] = Place.recall(str(Sites({"north": site})))
    assert (place.standing, place.troubles) == (Standing.APPROVED, ("clock", "data"))
    assert "north/0 found this not in order at its site: clock, data." in place.warning
    assert Place.recall("north/0:7:approved:Moriarty")[0].warning == ""
    assert SiteNode.parse({**vars(node), "troubles": ["data", "x"]}).troubles == ("data",)


def test_troubles_of_own_machines_are_said_with_what_was_found():
    bad = Check(WARN, Topic.DATA, "a.csv: values are missing in dose (2), of 8 rows", "Fill them in.")
    vm = VmStatus(1, "lab-supernode-0", "supernode", "running", True, checks=(bad, Check(OK, Topic.DISK, "x")))
    assert FederationStatus(1, "lab", "RUNNING", 1, vms=(vm,)).troubles == [
        "lab-supernode-0: data: a.csv: values are missing in dose (2), of 8 rows. Fill them in."
    ]
