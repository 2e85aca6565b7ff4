"""The disks of the local cloud's machines: which images they are laid over, and what happens if one is not there."""

from __future__ import annotations

import pytest

from oneflower.local.clock import Timing
from oneflower.local.host.driver import Disk
from oneflower.local.host.images import disks_of_machine
from oneflower.local.oned import hotplug
from oneflower.local.oned.models import Image
from oneflower.opennebula.states import LcmState, VmState
from oneflower_appliance.errors import OneflowerError
from tests.conformance.cloud import LocalServers


class Host:
    """Keeps what it is asked for."""

    def __init__(self):
        self.ended = []

    def address(self):
        return "127.99.0.2"

    def prepare(self, *_):
        pass

    def start(self, vm):
        pass

    def attach(self, _vm, ended):
        self.ended.append(ended)

    def detach(self, _vm, _number, ended):
        self.ended.append(ended)


@pytest.fixture
def compute(tmp_path):
    cloud = LocalServers(tmp_path / "cloud.db", 1_700_000_000.0, Timing())
    cloud.compute.host = Host()
    yield cloud.compute
    cloud.close()


@pytest.fixture
def vm(compute, tmp_path):
    """A machine with a guest, which is powered off."""
    (tmp_path / "old.qcow2").touch()
    for name in ("old", "new"):
        compute.catalogue.save_image({"NAME": name, "PATH": str(tmp_path / f"{name}.qcow2"), "SIZE": "10"}, 1)
    number = compute.catalogue.save_template(
        {"NAME": "it", "DISK": {"IMAGE_ID": "0", "SIZE": "20"}, "CONTEXT": {"ONEFLOWER_ROLE": "superlink"}}
    )
    made = compute.instantiate(number, "it", "", hold=False)
    made.state, made.lcm_state = VmState.POWEROFF, LcmState.LCM_INIT
    return made


def attach(compute, vm):
    image = compute.catalogue.images[1]
    hotplug.attach(compute, vm, {"IMAGE_ID": "1"}, image)
    return compute.host.ended[-1]


def numbers(vm):
    return [disk["DISK_ID"] for disk in vm.template["DISK"]]


def test_a_machine_has_its_images_files_and_boots_one(compute, vm, tmp_path):
    assert disks_of_machine(vm, compute.catalogue.images) == [Disk(0, tmp_path / "old.qcow2", 20)]
    attach(compute, vm)("")
    with pytest.raises(OneflowerError, match="The image new has no file on this machine"):
        disks_of_machine(vm, compute.catalogue.images)
    (tmp_path / "new.qcow2").touch()
    vm.template["DISK"][1]["ORDER"] = "1"
    assert [disk.boots for disk in disks_of_machine(vm, compute.catalogue.images)] == [False, True]
    foreign = {0: Image(0, "far", {"PATH": "https://example.org/x.qcow2"})}
    with pytest.raises(OneflowerError, match="no file on this machine"):
        disks_of_machine(vm, foreign)


def test_a_disk_that_the_host_could_not_make_is_not_there(compute, vm):
    ended = attach(compute, vm)
    assert (vm.lcm_state, numbers(vm)) == (LcmState.HOTPLUG_PROLOG_POWEROFF, ["0", "2"])
    ended("The disk is full.")
    assert (vm.state, numbers(vm)) == (VmState.POWEROFF, ["0"])


def test_a_disk_that_the_host_could_not_take_away_stays(compute, vm):
    attach(compute, vm)("")
    hotplug.detach(compute, vm, 2)
    compute.host.ended[-1]("It is in use.")
    assert (vm.state, numbers(vm)) == (VmState.POWEROFF, ["0", "2"])
    assert "ATTACH" not in vm.template["DISK"][1]


def test_what_a_daemon_had_begun_when_it_ended_was_not_done(compute, vm):
    attach(compute, vm)
    hotplug.resume(compute)
    assert (vm.state, numbers(vm)) == (VmState.POWEROFF, ["0"])
    attach(compute, vm)("")
    hotplug.detach(compute, vm, 2)
    hotplug.resume(compute)
    assert (vm.state, numbers(vm)) == (VmState.POWEROFF, ["0", "2"])
