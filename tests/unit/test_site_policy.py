"""What a site allows: every error of a policy at once, hours across midnight, apps by signer and by content."""

from __future__ import annotations

import base64
import io
import zipfile
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from oneflower.cloud.site_folder import SiteFolder, changed_lines, differences
from oneflower_appliance.agent.confined import confinement
from oneflower_appliance.agent.site_policy_file import site_policy
from oneflower_appliance.app_bundle import SIGNATURE, Bundle, BundleError
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.features_off import FOLDER_VARIABLE
from oneflower_appliance.orders import EXECUTION_VARIABLE, RUNS_VARIABLE, TASK_VARIABLE, Confinement
from oneflower_appliance.parameters import Level
from oneflower_appliance.settings import resolve
from oneflower_appliance.site_policy import EXAMPLE, PolicyError, SitePolicy, read_text
from oneflower_appliance.task_limits import TaskLimits

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
PROJECT = '[project]\nname = "mine"\nversion = "1.0"\n[tool.flwr.app]\npublisher = "me"\n'


def packed(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        lines = [f"{name},{sha256(text.encode()).hexdigest()},{len(text) * 8}" for name, text in files.items()]
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return content.getvalue()


def bundle(**more):
    return Bundle.read(packed({"pyproject.toml": PROJECT, "mine.py": "app = 1", **more}))


def test_the_example_is_valid_and_every_error_is_named_at_once():
    assert SitePolicy.parse(EXAMPLE).apps == "ask"
    assert SitePolicy.parse(EXAMPLE).task == TaskLimits(3600, 8192, "none", max_gpus=1)
    with pytest.raises(OneflowerError) as refused:
        SitePolicy.parse(
            'apps = "some"\nhash = []\nhashes = ["12"]\nsigners = ["alice", "bob ssh-ed25519 AAAA"]\n'
            '[task]\nseconds = 0\nmemory = "much"\negress = "some"\nread-only = ["data"]\ngpu = 1\ncpu = 2\n'
            '[hours]\nzone = "Mars/Base"\nopen = ["Monday", "Mon 25:00-26:00"]\n'
        )
    text = str(refused.value)
    for part in (
        "'some'",
        "hash is not a key",
        "'12'",
        "'alice'",
        "key of bob",
        "Mars/Base",
        "'Monday'",
        "25:00",
        "seconds is 0",
        "memory is 'much'",
        "egress is 'some'",
        "read-only has 'data'",
        "gpu is 1",
        "cpu is not a key",
    ):
        assert part in text, part
    for wrong in (
        "apps = ",
        'hours = "all"',
        '[hours]\nzone = "UTC"',
        "[privacy]\nclip = 1\nnoise = 1",
        'apps = "ask"\n[privacy]\nclip = 0',
        "signers = 1",
        'apps = "signed"',
    ):
        with pytest.raises(OneflowerError, match="not valid"):
            SitePolicy.parse(wrong)


def test_a_policy_travels_as_toml_or_as_base64():
    text = 'apps = "listed"\n'
    assert read_text(text) == read_text(base64.b64encode(text.encode()).decode()) == text


@pytest.mark.parametrize(
    ("window", "day", "hour", "is_open"),
    [
        ("Mon-Fri 20:00-06:00", 4, 22, True),
        ("Mon-Fri 20:00-06:00", 4, 12, False),
        ("Fri 20:00-06:00", 7, 5, True),  # Saturday morning
        ("Fri 20:00-06:00", 7, 6, False),
        ("Sun 20:00-06:00", 2, 5, True),  # over the end of the week
        ("Sat-Mon 00:00-24:00", 2, 23, True),
        ("Sat-Mon 00:00-24:00", 3, 0, False),
    ],
)
def test_hours_go_past_midnight_and_past_sunday(window, day, hour, is_open):
    policy = SitePolicy.parse(f'[hours]\nzone = "Etc/GMT-2"\nopen = ["{window}"]\n')
    moment = datetime(2026, 3, day, hour, tzinfo=UTC) - timedelta(hours=2)
    if is_open:
        policy.check_time(moment)
    else:
        with pytest.raises(PolicyError, match=window):
            policy.check_time(moment)


@pytest.mark.parametrize(
    ("zone", "window", "moment", "is_open"),
    [
        ("Europe/Madrid", "Sat 22:00-24:00", "2026-03-28T22:59:59", True),  # midnight there is 23:00 UTC
        ("Europe/Madrid", "Sat 22:00-24:00", "2026-03-28T23:00:00", False),
        ("Europe/Madrid", "Sat 22:00-24:00", "2026-03-28T21:00:00", True),
        ("Europe/Madrid", "Sat 22:00-24:00", "2026-03-28T20:59:59", False),
        (
            "Europe/Madrid",
            "Sun 03:00-04:00",
            "2026-03-29T01:00:00",
            True,
        ),  # summer time begins: after 01:59 comes 03:00
        ("Europe/Madrid", "Sun 02:00-03:00", "2026-03-29T01:00:00", False),
        ("Europe/Madrid", "Sun 02:00-03:00", "2026-10-25T00:30:00", True),  # it ends: the hour from 2 to 3 comes twice
        ("Europe/Madrid", "Sun 02:00-03:00", "2026-10-25T01:30:00", True),
        ("Europe/Madrid", "Sun 02:00-03:00", "2026-10-25T02:00:00", False),
        ("Pacific/Kiritimati", "Mon 00:00-01:00", "2026-03-01T10:00:00", True),  # a day ahead of UTC
        ("UTC", "Mon 08:00-08:00", "2026-03-03T07:59:59", True),  # a whole day
        ("UTC", "Mon 08:00-08:00", "2026-03-03T08:00:00", False),
    ],
)
def test_hours_are_those_of_the_zone_to_the_second_also_when_its_clock_changes(zone, window, moment, is_open):
    policy = SitePolicy.parse(f'[hours]\nzone = "{zone}"\nopen = ["{window}"]\n')
    assert policy.hours.are_open(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is is_open


def test_an_app_is_known_by_its_content_however_it_is_packed_and_every_change_counts():
    content = bundle().content_hash
    again = Bundle.read(packed({"mine.py": "app = 1", "pyproject.toml": "# other\n" + PROJECT}))
    assert again.content_hash == bundle(**{SIGNATURE: "{}"}).content_hash == content
    assert again.sha256 != bundle().sha256
    policy = SitePolicy.parse(f'apps = "listed"\nhashes = ["{content}"]')
    assert policy.check_app(again, NOW) == "it is listed"
    others = ({"mine.py": "app = 2"}, {"more.py": ""}, {"pyproject.toml": PROJECT + "[tool.other]\n"}, {"a.json": "{}"})
    for other in others:
        with pytest.raises(PolicyError, match="not in the site's list"):
            policy.check_app(bundle(**other), NOW)
    with pytest.raises(PolicyError, match="oneflower policy approve"):
        SitePolicy.parse('apps = "ask"').check_app(bundle(), NOW)
    assert SitePolicy.parse("").check_app(bundle(), NOW)


def test_a_bundle_in_which_a_name_is_twice_is_none():
    content = io.BytesIO(packed({"pyproject.toml": PROJECT}))
    with zipfile.ZipFile(content, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("pyproject.toml", PROJECT)
    with pytest.raises(BundleError, match="twice"):
        Bundle.read(content.getvalue())


def test_a_policy_file_that_others_could_write_keeps_a_machine_out(tmp_path):
    path = tmp_path / "policy.toml"
    assert site_policy(resolve({}), path) is None
    path.write_text('apps = "ask"')
    path.chmod(0o644)
    if path.stat().st_uid:  # only root's file counts
        with pytest.raises(OneflowerError, match="Others than root"):
            site_policy(resolve({}), path)
        return
    assert site_policy(resolve({}), path).apps == "ask"
    with pytest.raises(OneflowerError, match="two policies"):
        site_policy(resolve({"FL_SITE_POLICY": 'apps = "any"'}), path)
    path.chmod(0o666)
    with pytest.raises(OneflowerError, match="Others than root"):
        site_policy(resolve({}), path)
    path.chmod(0o644)
    path.write_text('appz = "ask"')
    with pytest.raises(OneflowerError, match="appz"):
        site_policy(resolve({}), path)


def test_what_was_approved_counts_and_what_changed_since_is_shown(tmp_path):
    folder = SiteFolder(tmp_path / "policy.toml")
    with pytest.raises(OneflowerError, match="no policy"):
        folder.text()
    folder.path.write_text('apps = "ask"')
    assert folder.before(bundle()) is None
    folder.approve(bundle())
    policy = SitePolicy.parse(read_text(folder.setting()["FL_SITE_POLICY"]))
    assert policy.check_app(bundle(), NOW)
    new = bundle(**{"mine.py": "app = 2", "more.py": ""})
    with pytest.raises(PolicyError):
        policy.check_app(new, NOW)
    old = folder.before(new)
    assert differences(old, new) == [("mine.py", "changed"), ("more.py", "added"), ("pyproject.toml", "same")]
    assert {"-app = 1", "+app = 2"} <= set(changed_lines(old, new))


def test_a_task_writes_in_no_folder_that_the_agent_reads(tmp_path):
    """A link that a task left there would have the agent read, and publish, what the link leads to."""
    machine = SimpleNamespace(home=tmp_path, settings=resolve({}, (Level.SUPERNODE,)), loopback="127.0.0.1", context={})
    folders = {"FLWR_HOME": str(tmp_path / "flwr"), RUNS_VARIABLE: str(tmp_path / "runs")}
    agents = {FOLDER_VARIABLE: str(tmp_path / "features-off"), EXECUTION_VARIABLE: "warm"}
    limits = SitePolicy.parse("[task]\nmax-gpus = 2").task
    found = Confinement.read(confinement(machine, limits, folders | agents)[TASK_VARIABLE])
    assert set(found.writable) == set(folders.values())
    assert (found.max_gpus, found.ended) == (2, "")
    stock = confinement(machine, limits, folders | agents | {EXECUTION_VARIABLE: "stock"})
    assert Path(Confinement.read(stock[TASK_VARIABLE]).ended).is_dir()
    assert SitePolicy.parse("[task]\ngpu = false\nmax-gpus = 2").task.gpus == 0
