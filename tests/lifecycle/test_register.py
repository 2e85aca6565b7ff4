"""Registering on a cloud: repeatedly, with changes by hand in between, and with obstacles."""

from __future__ import annotations

import hashlib

import pytest

from oneflower.cloud import RefusedError
from oneflower.cloud.image_source import ImageSource
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.registered import find_registered, unregister
from oneflower.opennebula import COORDINATOR, NODES, Policies, ServiceKind, VmOptions, render
from oneflower.opennebula.autoscale import ELASTIC, SCHEDULED, has_policies
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import form_fields
from oneflower_appliance.settings import Bounds

from .conftest import ON_OPENNEBULA


@pytest.fixture
def name(world):
    chosen = f"{world.prefix}-reg"
    yield chosen
    unregister(world.cloud, chosen)


def register(world, name, *, force=False, dry_run=False, node=VmOptions(), bounds=None):  # noqa: B008
    wishes = Wishes(name, {NODES: node}, bounds={ServiceKind.FEDERATION: bounds} if bounds else {})
    return Registration(world.cloud, wishes, force=force, dry_run=dry_run).apply()


def there(world, name):
    return (
        [template for template in world.cloud.core.vm_templates() if template.startswith(name)],
        [document["NAME"] for document in world.cloud.oneflow.service_templates() if document["NAME"].startswith(name)],
    )


def changes(done):
    return [str(change) for change in done.changes]


def body(world, number):
    return next(d for d in world.cloud.oneflow.service_templates() if d["ID"] == str(number))["TEMPLATE"]["BODY"]


def test_registering_twice_changes_nothing_the_second_time(world, name):
    assert there(world, name) == ([], [])
    planned = register(world, name, dry_run=True)
    assert planned.templates[ServiceKind.FEDERATION] == -1
    assert there(world, name) == ([], [])
    done = register(world, name)
    assert changes(done) == changes(planned)
    assert find_registered(world.cloud, name) == (done.templates[ServiceKind.FEDERATION], Bounds())
    assert find_registered(world.cloud, f"{name}-form") == (done.forms[ServiceKind.FEDERATION], Bounds())
    roles = {role["name"]: role["template_id"] for role in body(world, done.templates[ServiceKind.FEDERATION])["roles"]}
    assert roles == {COORDINATOR: done.vm_templates[COORDINATOR], NODES: done.vm_templates[NODES]}
    again = register(world, name)
    assert (again.changes, again.templates[ServiceKind.FEDERATION], again.forms[ServiceKind.FEDERATION]) == (
        (),
        done.templates[ServiceKind.FEDERATION],
        done.forms[ServiceKind.FEDERATION],
    )
    assert again.vm_templates == done.vm_templates
    removed = unregister(world.cloud, name)
    assert len(removed) == 8
    assert there(world, name) == ([], [])
    assert unregister(world.cloud, name) == []


def test_one_kind_is_registered_alone_kept_up_to_date_and_removed_without_what_others_use(world, name):
    def kinds(*chosen, **wishes):
        return Registration(world.cloud, Wishes(name, kinds=chosen, **wishes)).apply()

    site = f"{name}-site"
    done = kinds(ServiceKind.SITE)
    assert sorted(there(world, name)[1]) == [site, f"{site}-form"]
    assert find_registered(world.cloud, site) == (done.templates[ServiceKind.SITE], Bounds(1, 10, 1))
    bounds = {ServiceKind.SITE: Bounds(1, 4, 2), ServiceKind.FEDERATION: Bounds(2, 4, 2)}
    kinds(ServiceKind.COORDINATOR, bounds=bounds)
    assert find_registered(world.cloud, site)[1] == Bounds(1, 4, 2), "it is registered, so it is brought up to date"
    assert find_registered(world.cloud, f"{name}-coordinator")[1] is None
    assert register(world, name, node=VmOptions(memory=512)).changes
    assert register(world, name, node=VmOptions(memory=512)).changes == (), "all kinds know the same VM templates"
    assert [str(change) for change in unregister(world.cloud, name, [ServiceKind.FEDERATION, ServiceKind.SITE])] == [
        f"- service template {each}" for each in (name, f"{name}-form", site, f"{site}-form")
    ]
    assert len(there(world, name)[0]) == 2, "the coordinator needs one of them"
    assert len(unregister(world.cloud, name, [ServiceKind.COORDINATOR])) == 4
    assert there(world, name) == ([], [])


def test_what_differs_is_updated_and_what_is_not_mentioned_stays(world, name):
    done = register(world, name, node=VmOptions(memory=512), bounds=Bounds(2, 20, 3))
    planned = register(world, name, node=VmOptions(memory=1024), dry_run=True)
    assert changes(planned) == [f"~ VM template {name}-supernode: MEMORY 512 -> 1024"]
    register(world, name, node=VmOptions(memory=1024))
    assert register(world, name).changes == (), "an option that is left out leaves its value alone"
    assert world.cloud.core.vm_template(done.vm_templates[NODES])["MEMORY"] == "1024"
    nodes = body(world, done.templates[ServiceKind.FEDERATION])["roles"][1]
    assert [nodes[key] for key in ("cardinality", "min_vms", "max_vms")] == [3, 2, 20]
    assert find_registered(world.cloud, name)[1] == Bounds(2, 20, 3), "what `up` goes by"


def test_policies_are_registered_for_all_that_have_supernodes_stay_and_can_be_removed(world, name):
    policies, limits = Policies.read(["FL_BUSY < 5 : -1"], ["0 20 * * * = 6"]), Bounds(2, 6, 2)

    def registered(**wishes):
        done = Registration(world.cloud, Wishes(name, **wishes)).apply()
        numbers = [number for each in (done.templates, done.forms) for number in each.values()]
        roles = [role for number in numbers for role in body(world, number)["roles"]]
        assert not any(has_policies(role) for role in roles if role["name"] == COORDINATOR)
        return [
            {key: role[key] for key in (ELASTIC, SCHEDULED) if key in role} for role in roles if role["name"] == NODES
        ]

    every = {kind: limits for kind in ServiceKind if NODES in kind.roles}
    assert registered(bounds=every, policies=policies) == [policies.entries] * 4, "and for Sunstone's forms"
    assert registered() == [policies.entries] * 4
    assert registered(policies=Policies()) == [{}] * 4


def test_what_was_changed_by_hand_stays_unless_forced(world, name):
    done = register(world, name, node=VmOptions(memory=512))
    number = done.vm_templates[NODES]
    edited = world.cloud.core.vm_template(number) | {"MEMORY": "768", "SCHED_REQUIREMENTS": 'HYPERVISOR="kvm"'}
    edited["CONTEXT"]["SET_HOSTNAME"] = "$NAME"
    world.cloud.core.update_vm_template(number, render(edited))
    template = body(world, done.templates[ServiceKind.FEDERATION]) | {"description": "ours now"}
    world.cloud.oneflow.update_service_template(done.templates[ServiceKind.FEDERATION], template)
    kept = register(world, name, node=VmOptions(memory=1024))
    assert sorted(change.kind for change in kept.changes) == ["keep", "keep"]
    found = world.cloud.core.vm_template(number)
    assert (found["MEMORY"], found["SCHED_REQUIREMENTS"]) == ("768", 'HYPERVISOR="kvm"')
    assert found["CONTEXT"]["SET_HOSTNAME"] == "$NAME"
    assert body(world, done.templates[ServiceKind.FEDERATION])["description"] == "ours now"
    forced = register(world, name, force=True, node=VmOptions(memory=1024))
    assert {change.kind for change in forced.changes} == {"update"}
    found = world.cloud.core.vm_template(number)
    assert found["MEMORY"] == "1024"
    assert found["SCHED_REQUIREMENTS"] == 'HYPERVISOR="kvm"', "what was never ours stays in any case"
    assert register(world, name, node=VmOptions(memory=1024)).changes == ()


def test_the_form_is_kept_up_to_date_as_the_rest_is(world, name):
    done = register(world, name, bounds=Bounds(2, 20, 3))
    form = body(world, done.forms[ServiceKind.FEDERATION])
    assert set(form["user_inputs"]) == {field.input for field, _ in form_fields()}
    assert [role["template_id"] for role in form["roles"]] == list(done.vm_templates.values())
    change = {"user_inputs": form["user_inputs"] | {"ONEAPP_FLOWER_TRAINING_ROUNDS": "O|number|Rounds||50"}}
    world.cloud.oneflow.update_service_template(done.forms[ServiceKind.FEDERATION], form | change)
    kept = register(world, name, bounds=Bounds(2, 30, 3))
    rounds = "user_inputs.ONEAPP_FLOWER_TRAINING_ROUNDS stays O|number|Rounds||50, changed by hand"
    assert [str(change).partition(" (")[0] for change in sorted(kept.changes, key=str)] == [
        f"= service template {name}-form: {rounds}",
        f"~ service template {name}-form: roles[supernode].max_vms 20 -> 30",
        f"~ service template {name}: roles[supernode].max_vms 20 -> 30",
    ]
    assert (
        body(world, done.forms[ServiceKind.FEDERATION])["user_inputs"]["ONEAPP_FLOWER_TRAINING_ROUNDS"]
        == "O|number|Rounds||50"
    )
    assert find_registered(world.cloud, f"{name}-form")[1] == Bounds(2, 30, 3)


def test_a_vm_template_that_asks_for_inputs_is_named_and_a_name_of_a_form_is_refused(world, name):
    done = register(world, name)
    assert done.asking == ()
    number = done.vm_templates[NODES]
    edited = world.cloud.core.vm_template(number) | {"USER_INPUTS": {"FL_SITE": "O|text|Site||"}}
    world.cloud.core.update_vm_template(number, render(edited))
    assert register(world, name).asking == (NODES,)
    with pytest.raises(OneflowerError, match="cannot be registered"):
        register(world, f"{name}-form")
    with pytest.raises(OneflowerError, match="NAME-site is one of the templates of NAME"):
        register(world, f"{name}-site")


def test_what_was_begun_is_removed_again_when_something_fails(world, name, monkeypatch):
    def refuse(_body):
        raise OneflowerError("OneFlow is gone.")

    said = []
    monkeypatch.setattr(world.cloud.oneflow, "create_service_template", refuse)
    with pytest.raises(OneflowerError, match="OneFlow is gone"):
        Registration(world.cloud, Wishes(name, kinds=(ServiceKind.FEDERATION,)), notify=said.append).apply()
    assert there(world, name) == ([], [])
    assert said == [f"removed again: VM template {name}-{role}" for role in (NODES, COORDINATOR)]
    create = type(world.cloud.oneflow).create_service_template
    monkeypatch.setattr(
        world.cloud.oneflow,
        "create_service_template",
        lambda body: refuse(body) if body["name"].endswith("-form") else create(world.cloud.oneflow, body),
    )
    said.clear()
    with pytest.raises(OneflowerError, match="OneFlow is gone"):
        Registration(world.cloud, Wishes(name, kinds=(ServiceKind.FEDERATION,)), notify=said.append).apply()
    assert there(world, name) == ([], [])
    assert said[0] == f"removed again: service template {name}"


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"machines": {NODES: VmOptions(network="nowhere")}}, "no virtual network called 'nowhere'"),
        ({"machines": {NODES: VmOptions(gpu="quick")}}, "'quick' is not a valid PCI device"),
        ({"machines": {NODES: VmOptions(image="no such")}}, "no image called 'no such'"),
        ({"images": {NODES: ImageSource("http://host/image")}}, "does not verify whom it downloads"),
        ({"images": {NODES: ImageSource("http://host/image", "sha256:" + "0" * 64)}}, "does not verify whom"),
        ({"images": {NODES: ImageSource("/x", "sha256:abc")}}, "is not a valid checksum"),
        ({"images": {NODES: ImageSource("/nowhere", "sha256:" + "0" * 64)}}, "cannot be verified"),
        ({"images": {NODES: ImageSource("/x")}, "datastore": "cellar"}, "no datastore called 'cellar'"),
    ],
)
def test_what_cannot_be_had_is_named_before_anything_is_made(world, name, wishes, text):
    with pytest.raises(OneflowerError, match=text):
        Registration(world.cloud, Wishes(name, **wishes)).apply()
    assert there(world, name) == ([], [])


def test_an_image_is_registered_once_for_each_content(world, name, tmp_path):
    if ON_OPENNEBULA:
        tmp_path = tmp_path.parent  # whether OpenNebula may read it there is up to its datastore
    path = tmp_path / "node.qcow2"
    path.write_bytes(b"not really an image")
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    wishes = Wishes(name, images={NODES: ImageSource(str(path), checksum)})
    try:
        done = Registration(world.cloud, wishes).apply()
    except OneflowerError as error:
        assert "could not create the image" in error.message
        assert there(world, name) == ([], [])
        return
    disk = world.cloud.core.vm_template(done.vm_templates[NODES])["DISK"]["IMAGE_ID"]
    assert int(disk) in [number for image, number in world.cloud.core.images().items() if image.startswith(name)]
    assert Registration(world.cloud, wishes).apply().changes == ()
    path.write_bytes(b"another one")
    with pytest.raises(OneflowerError, match="has the sha256"):
        Registration(world.cloud, wishes).apply()
    newer = Wishes(name, images={NODES: ImageSource(str(path))})
    assert [change.kind for change in Registration(world.cloud, newer).apply().changes] == ["create", "update"]
    unregister(world.cloud, name)
    assert not [image for image in world.cloud.core.images() if image.startswith(name)]


def test_an_image_that_the_core_refuses_is_the_same_sentence_as_one_that_it_gives_up(world, name, monkeypatch):
    def refuse(*_):
        text = "[one.image.allocate] Cannot determine Image SIZE. Failed to stat /root/node.qcow2"
        raise RefusedError(500, text, "OpenNebula")

    monkeypatch.setattr(world.cloud.core, "create_image", refuse)
    with pytest.raises(OneflowerError, match="OpenNebula could not create the image .*Cannot determine") as caught:
        Registration(world.cloud, Wishes(name, images={NODES: ImageSource("/root/node.qcow2")})).apply()
    assert "SAFE_DIRS" in caught.value.hint
    assert "500" not in str(caught.value)


def test_the_roles_that_have_nothing_to_boot_from_are_named_before_and_after(world, name):
    image = world.cloud.core.create_image(render({"NAME": f"{name}-own", "TYPE": "DATABLOCK", "SIZE": "1"}), 1)
    try:
        for dry_run in (True, False):
            assert register(world, name, dry_run=dry_run).diskless == (COORDINATOR, NODES)
        for dry_run in (True, False):
            chosen = VmOptions(image=f"{name}-own")
            assert register(world, name, node=chosen, dry_run=dry_run).diskless == (COORDINATOR,)
        assert register(world, name).diskless == (COORDINATOR,), "what is there already counts"
    finally:
        unregister(world.cloud, name)
        world.cloud.core.delete_image(image)


def test_an_image_that_cannot_be_made_leaves_nothing(world, name):
    wishes = Wishes(name, images={NODES: ImageSource("/nowhere/node.qcow2")})
    with pytest.raises(OneflowerError, match="could not create the image"):
        Registration(world.cloud, wishes).apply()
    assert there(world, name) == ([], [])
    assert not [image for image in world.cloud.core.images() if image.startswith(name)]
