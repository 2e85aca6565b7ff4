"""Clouds that go away while a federation is waited for or removed, and interrupts at the worst moment.

The local cloud's own daemon is killed, whose machines run no guest here.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from oneflower.api import local_cloud
from oneflower.cloud import Cloud, Federation, Limits
from oneflower.clouds import LocalSurroundings
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.opennebula import COORDINATOR, NODES, ServiceOptions, render, service_template, vm_template
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds


class Here(LocalSurroundings):
    """The local cloud, its machines empty."""

    number = -1

    def template(self, _cloud):
        return self.number

    def prepare(self, *_):
        pass


class Elsewhere(Here):
    """A cloud that is not ours to start."""

    def revive(self):
        return None


class World:
    """A daemon, and clients of it that remember what they were told."""

    def __init__(self):
        self.home = LocalHome.of_user()
        made = local_cloud()
        ids = {}
        for role in (COORDINATOR, NODES):
            template = vm_template(role)
            del template["CONTEXT"]["ONEFLOWER_ROLE"]
            ids[role] = made.core.create_vm_template(render({"NAME": f"empty-{role}", **template}))
        body = service_template(ServiceOptions(name="empty", template_ids=ids))
        for role in body["roles"]:
            del role["template_contents"]["CONTEXT"]["ONEFLOWER_ROLE"]
        self.number = made.oneflow.create_service_template(body)
        self.endpoints = made.endpoints
        made.close()
        self.said = []
        self.clouds = []

    def cloud(self, kind=Here, outage=60):
        surroundings = kind()
        surroundings.number = self.number
        self.clouds.append(Cloud(self.endpoints, surroundings, self.said.append, Limits(outage=outage, pause=0.05)))
        return self.clouds[-1]

    def kill(self):
        found = daemon.find(self.home)
        os.kill(found.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while daemon.find(self.home) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def world():
    made = World()
    yield made
    for cloud in made.clouds:
        cloud.close()
    daemon.stop(made.home)


@pytest.mark.e2e
def test_a_daemon_that_dies_is_started_again_and_the_waiting_goes_on(world):
    made = Federation.begin(world.cloud(), "lab", {}, Bounds())
    seen = []

    def watch(status):
        if not seen:
            world.kill()
        seen.append(status)

    with pytest.raises(OneflowerError, match="still waiting for superlink_0") as caught:
        made.wait_ready(4, watch)
    assert caught.value.code is ExitCode.TIMEOUT
    assert len(seen) > 1
    assert "the local cloud had ended, and was started again" in world.said[0]
    world.kill()
    made.delete()
    assert list(Federation.all(world.cloud())) == []


def test_without_waiting_too_a_dead_daemon_is_started_again(world):
    cloud = world.cloud()
    world.kill()
    assert cloud.oneflow.services() == []
    world.kill()
    assert cloud.core.images() == {}


def test_when_the_rollback_fails_the_first_error_is_what_is_seen_and_what_is_left_is_named(world):

    def watch(status):
        if status.vms:
            world.kill()
            raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error") as caught:
        Federation.deploy(world.cloud(Elsewhere, outage=0.3), 2, name="lab", watch=watch)
    [note] = caught.value.__notes__
    assert "lab could not be removed" in note
    assert world.said[-1] == note
    [left] = Federation.all(world.cloud())
    assert f"Left behind: service {left.id} and VMs {left.status().vms[0].id}." in note
    assert f"`oneflower down {left.id}`" in note
    left.delete()


def test_a_cloud_that_comes_back_is_waited_for_in_a_rollback(world):
    made = Federation.begin(world.cloud(Elsewhere), "lab", {}, Bounds())
    world.kill()
    back = threading.Timer(1, lambda: daemon.connect(world.home))
    back.start()
    assert made.roll_back() == ""
    back.join()
    assert any("Waiting up to 60 s" in text for text in world.said)
    assert list(Federation.all(world.cloud())) == []


def test_a_second_interrupt_says_what_is_left(world, monkeypatch):
    made = Federation.begin(world.cloud(), "lab", {}, Bounds())
    made.status()

    def interrupted(_number):
        raise KeyboardInterrupt

    monkeypatch.setattr(made.cloud.oneflow, "delete_service", interrupted)
    monkeypatch.setattr(made.cloud.oneflow, "recover_service", lambda number, delete: interrupted(number))
    with pytest.raises(KeyboardInterrupt):
        made.roll_back()
    assert f"Interrupted while removing lab. Left behind: service {made.id}" in world.said[-1]
    Federation.find(world.cloud(), "lab").delete()


def test_an_interrupt_while_the_cloud_makes_it_leaves_nothing(world, monkeypatch):
    cloud = world.cloud()
    make = cloud.oneflow.instantiate

    def slowly(template, merge):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.3)
        return make(template, merge)

    monkeypatch.setattr(cloud.oneflow, "instantiate", slowly)
    with pytest.raises(KeyboardInterrupt):
        Federation.begin(cloud, "lab", {}, Bounds())
    assert "removing lab as soon as" in world.said[0]
    assert list(Federation.all(cloud)) == []
