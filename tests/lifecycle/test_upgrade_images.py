"""Another image for machines that exist, and the way back; the tests act as the guests."""

from __future__ import annotations

import itertools
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from oneflower.cloud import RefusedError, disk_change, upgrade
from oneflower.events import Note
from oneflower.opennebula import COORDINATOR, NODES, render
from oneflower.opennebula.states import VmState
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.previous_disk import VARIABLE
from oneflower_appliance.settings import Bounds

OLD, NEW = "1.41.0", "1.42.0"
_serials = itertools.count(1)


@pytest.fixture
def runs(monkeypatch):
    """The runs of the SuperLink, which has no API here."""
    found = []
    monkeypatch.setattr("oneflower.cloud.superlink.reach", lambda *_: nullcontext(SimpleNamespace(runs=lambda: found)))
    monkeypatch.setattr(upgrade, "_LOOK", 0.02)
    monkeypatch.setattr(disk_change, "_LOOK", 0.02)
    return found


class Images:
    """Images and VM templates as `register` makes them: a new image leaves the VM template before under another name."""

    def __init__(self, world):
        self._world = world
        self._core = world.cloud.core
        self.made = []

    def make(self, flower=NEW, framework="sklearn", **more):
        serial = next(_serials)
        about = {"NAME": "lab", "FLOWER": flower, "FRAMEWORK": framework}
        content = {"NAME": f"{self._world.prefix}-image-{serial}-{flower}", "SIZE": "10", "TYPE": "DATABLOCK",
                   "PERSISTENT": "NO", "DEV_PREFIX": "vd", "MD5": str(serial)}  # fmt: skip
        content["ONEFLOWER"] = {key: value for key, value in about.items() if value}
        number = self._core.create_image(render(content | more), self._core.datastores()["default"].id)
        self._world.until(lambda: self._core.image(number).state in (1, 2))
        self.made.append(number)
        return str(number)

    def put(self, image, *others):
        """Have new machines boot an image, in place."""
        for number in self._world.vm_templates.values():
            content = self._core.vm_template(number)
            disk = {"IMAGE_ID": image, "DEV_PREFIX": "vd", "SIZE": "20"}
            self._core.update_vm_template(number, render(content | {"DISK": [disk, *others], "OS": {"BOOT": "disk0"}}))

    def register(self, image):
        """Have an image be the one of today, for the next federation."""
        for role, number in list(self._world.vm_templates.items()):
            name, content = f"{self._world.prefix}-{role}", self._core.vm_template(number)
            self._core.rename_vm_template(number, f"{name}-{number}")
            disk = {"IMAGE_ID": image, "DEV_PREFIX": "vd"}
            self._world.vm_templates[role] = self._core.create_vm_template(
                render({"NAME": name, **content, "DISK": disk})
            )


@pytest.fixture
def images(world):
    usual, contents = dict(world.vm_templates), {}
    for role, number in usual.items():
        contents[role] = world.cloud.core.vm_template(number)
    made = Images(world)
    yield made
    for role, number in usual.items():
        if world.vm_templates[role] != number:
            world.cloud.core.delete_vm_template(world.vm_templates[role])
            world.cloud.core.rename_vm_template(number, f"{world.prefix}-{role}")
        world.cloud.core.update_vm_template(number, render(contents[role]))
    world.vm_templates.update(usual)
    for image in made.made:
        world.cloud.core.delete_image(image)


@pytest.fixture
def old(images):
    image = images.make(OLD)
    images.put(image)
    return image


@contextmanager
def deployed(world, silent=()):
    with world.federation("images", Bounds(2, 3, 2), FLOWER_VERSION=OLD) as made, world.guests(silent):
        world.until(lambda: made.status().ready)
        yield made


@pytest.fixture
def lab(world, runs, old):
    with deployed(world) as made:
        yield made


def machines(world, lab):
    numbers = [vm for role in (COORDINATOR, NODES) for vm in world.nodes(lab, role)]
    found = world.cloud.core.vms(numbers)
    return [found[number] for number in numbers]


def boots(world, lab):
    return [(vm.image, len(vm.disks), vm.context["FLOWER_VERSION"]) for vm in machines(world, lab)]


def interrupted(world, lab, where, **options):
    def interrupt(event):
        if str(event).startswith(where):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.upgrade(notify=interrupt, **options)


def test_machines_boot_the_image_that_is_registered_today_and_so_do_machines_that_are_made_later(
    world, lab, images, old
):
    nodes, new = world.nodes(lab, NODES), images.make()
    assert lab.upgrade_plan().done, "that of today is the one that they boot"
    images.register(new)
    before = world.body(lab)
    plan = lab.upgrade_plan()
    assert [[move.role for move in group] for group in plan.groups] == [[COORDINATOR], [NODES], [NODES]]
    assert (plan.before, plan.after, plan.to.images[NODES], plan.done) == (OLD, NEW, new, False)
    assert world.body(lab) == before
    lab.upgrade()
    assert boots(world, lab) == [(new, 1, NEW)] * 3
    assert {vm.boots.size for vm in machines(world, lab)} == {20}, "as large as the disk before"
    assert {vm.context[VARIABLE] for vm in machines(world, lab)} == {"YES"}
    assert world.nodes(lab, NODES) == nodes, "they are the same machines"
    assert lab.upgrade_plan().done
    disk = world.role(lab, NODES)["template_contents"]["DISK"]
    assert [(each["IMAGE_ID"], each["SIZE"]) for each in disk] == [(new, "20")]
    world.cloud.oneflow.scale_service(lab.id, NODES, 3)
    [fresh] = world.until(lambda: set(world.nodes(lab, NODES)) - set(nodes))
    assert world.cloud.core.vm(fresh).image == new
    assert not world.cloud.core.vm(fresh).context.get(VARIABLE), "a new machine has nothing to take over"


def test_a_newer_image_with_the_same_release_of_flower_is_another_image(world, lab, images):
    same = images.make(OLD)
    lab.upgrade(image=world.cloud.core.image(int(same)).name)
    assert boots(world, lab) == [(same, 1, OLD)] * 3


def test_what_was_interrupted_is_finished_by_the_same_command_or_taken_back(world, lab, images, old, runs):
    new = images.make()
    interrupted(world, lab, "supernode_0", image=new)
    assert boots(world, lab) == [(new, 2, NEW), (old, 1, OLD), (old, 1, OLD)], "the old disk stays"
    assert lab.upgrade_plan(image=new).begun
    with pytest.raises(OneflowerError, match="between two other images"):
        lab.upgrade(image=images.make())
    lab.upgrade(back=True)
    assert boots(world, lab) == [(old, 1, OLD)] * 3
    assert machines(world, lab)[0].boots.number == 0, "it is the disk from which it booted before"
    assert machines(world, lab)[0].context[VARIABLE] == "NO"
    interrupted(world, lab, "supernode_0", image=new)
    lab.upgrade(image=new)
    assert boots(world, lab) == [(new, 1, NEW)] * 3


@pytest.mark.parametrize("back", [False, True], ids=["finished", "taken back"])
@pytest.mark.parametrize("call", ["act_on_vm", "attach_disk", "set_vm_attribute", "configure_vm"])
def test_ctrl_c_after_any_request_loses_nothing(world, lab, images, old, monkeypatch, call, back):
    """The SuperLink is powered off by then, and has the other disk or not, and boots from it or not."""
    new, core = images.make(), type(world.cloud.core)
    usual = getattr(core, call)

    def interrupt(self, *given):
        usual(self, *given)
        if given[1] != "ONEFLOWER_BEFORE":  # which is written while the SuperLink still runs
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core, call, interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.upgrade(image=new)
    world.until(lambda: machines(world, lab)[0].state == VmState.POWEROFF)
    lab.upgrade(image="" if back else new, back=back)
    assert boots(world, lab) == [(old, 1, OLD) if back else (new, 1, NEW)] * 3
    assert machines(world, lab)[0].context.get(VARIABLE, "NO") == ("NO" if back else "YES")
    assert lab.status().ready


def test_going_back_is_refused_after_a_run_on_the_new_disk(world, lab, images, old, runs):
    new = images.make()
    interrupted(world, lab, "supernode_0", image=new)
    runs.append(SimpleNamespace(id="7", finished=True))
    with pytest.raises(OneflowerError, match="There were runs or changes of sites") as refused:
        lab.upgrade(back=True)
    assert "upgrade" in refused.value.hint
    assert boots(world, lab)[0] == (new, 2, NEW)
    lab.upgrade(image=new)
    assert boots(world, lab) == [(new, 1, NEW)] * 3


def test_what_an_earlier_attempt_left_is_not_booted(world, lab, images, old):
    new, link = images.make(), world.nodes(lab, COORDINATOR)[0]
    core = world.cloud.core
    core.attach_disk(link, {"IMAGE_ID": new, "DEV_PREFIX": "vd"})
    stale = world.until(lambda: [disk for disk in core.vm(link).disks if disk.image == new])[0]
    world.until(lambda: lab.status().ready)
    lab.upgrade(image=new)
    assert boots(world, lab) == [(new, 1, NEW)] * 3
    assert core.vm(link).boots.number != stale.number or core.vm(link).boots == core.vm(link).disks[0]


def test_all_boot_the_disk_before_when_a_supernode_does_not_become_ready(world, images, old, runs):
    new, said = images.make(), []
    with deployed(world, {(NODES, NEW)}) as made:
        with pytest.raises(OneflowerError, match=f"It is back on Flower {OLD} of the image") as failed:
            made.upgrade("", 0.5, said.append, image=new)
        assert failed.value.code is ExitCode.DEPLOY_FAILED
        assert boots(world, made) == [(old, 1, OLD)] * 3
        assert {vm.boots.number for vm in machines(world, made)} == {0}
        assert made.upgrade_plan(image=old).done
        assert any(isinstance(event, Note) and "go back" in str(event) for event in said)


def test_all_go_back_when_opennebula_attaches_nothing(world, lab, images, old, monkeypatch):
    new = images.make()
    with monkeypatch.context() as patch:
        patch.setattr(type(world.cloud.core), "attach_disk", lambda *_: None)
        with pytest.raises(OneflowerError, match="did not attach the image") as failed:
            lab.upgrade(image=new)
    assert "It is back" in failed.value.message

    def refuse(*_):
        raise RefusedError(401, "limit of 2 reached for VMS quota", "OpenNebula")

    monkeypatch.setattr(type(world.cloud.core), "attach_disk", refuse)
    with pytest.raises(OneflowerError, match=r"quota.*It is back"):
        lab.upgrade(image=new)
    assert boots(world, lab) == [(old, 1, OLD)] * 3
    assert lab.status().ready


def test_a_disk_that_does_not_go_stays_and_is_told(world, lab, images, monkeypatch):
    said = []

    def refuse(*_):
        raise RefusedError(500, "no", "OpenNebula")

    monkeypatch.setattr(type(world.cloud.core), "detach_disk", refuse)
    new = images.make()
    lab.upgrade("", 30, said.append, image=new)
    assert boots(world, lab) == [(new, 2, NEW)] * 3
    assert sum("which only takes room" in str(event) for event in said) == 3


def test_data_disks_keep_their_names(world, runs, images):
    old = images.make(OLD)
    images.put(old, {"TYPE": "fs", "SIZE": "5", "FORMAT": "raw", "DEV_PREFIX": "vd"})
    new, newest, said = images.make(), images.make(NEW), []
    with deployed(world) as lab:
        lab.upgrade("", 30, said.append, image=new)
        targets = [[(disk.image, disk.target) for disk in vm.disks] for vm in machines(world, lab)]
        assert targets == [[(old, "vda"), ("", "vdb"), (new, "vdc")]] * 3
        assert sum("until the next upgrade" in str(event) for event in said) == 3
        lab.upgrade(image=newest)
        targets = [sorted((disk.target, disk.image) for disk in vm.disks) for vm in machines(world, lab)]
        assert targets == [[("vda", newest), ("vdb", "")]] * 3
        contents = world.role(lab, NODES)["template_contents"]["DISK"]
        assert [disk.get("IMAGE_ID", disk.get("TYPE")) for disk in contents] == [newest, "fs"]


def test_an_image_that_cannot_take_the_place_of_the_other_is_refused(world, lab, images, old):
    before, core = world.body(lab), world.cloud.core
    names = {
        "carries pytorch": {"image": images.make(framework="pytorch")},
        "is persistent": {"image": images.make(PERSISTENT="YES")},
        "is a copy of": {"image": images.make(OLD, MD5=core.image(int(old)).attributes["MD5"])},
        "does not say which release": {"image": images.make("")},
        "There is no image 'nothing'": {"image": "nothing"},
        "carries Flower 1.42.0, and not 1.41.0": {"image": images.make(), "release": OLD},
        "carries Flower 1.41.0, and not 1.42.0": {"release": NEW},
        "is not a release of Flower": {"release": "new"},
    }
    for said, options in names.items():
        with pytest.raises(OneflowerError, match=said):
            lab.upgrade(**options)
    assert lab.upgrade_plan(NEW, images.make("")).after == NEW, "who says it may know it"
    assert (world.body(lab), boots(world, lab)) == (before, [(old, 1, OLD)] * 3)
