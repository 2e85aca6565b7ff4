"""Names are unique for an owner only: a tenant who plants what looks like ours, and shares it, gets nobody to boot it."""

from __future__ import annotations

import pytest

from oneflower.cloud import Cloud, Endpoints
from oneflower.cloud.image_source import ImageFacts, ImageSource
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.registered import find_registered, unregister
from oneflower.opennebula import COORDINATOR, NODES, ServiceKind, render
from oneflower_appliance.errors import ExitCode, OneflowerError

from .conftest import ON_OPENNEBULA

pytestmark = pytest.mark.skipif(ON_OPENNEBULA, reason="it creates users")
SHARED = (1, 1, 0, 1, 0, 0, 1, 0, 0)
SOURCE = ImageSource("http://images.example.org/x.qcow2", f"md5:{'0' * 32}", "x", ImageFacts())


class Tenant:
    """A user of the group `users`, who may plant what registering would create."""

    def __init__(self, world, name):
        self.world = world
        self.number = int(world.cloud.core.call("one.user.allocate", name, "secret", "core"))
        known = world.cloud.endpoints
        login = Endpoints(known.oneflow, known.xmlrpc, f"{name}:secret", direct=True)
        self.said = []
        self.cloud = Cloud(login, world.cloud.surroundings, self.said.append)
        self.planted = []

    def plant(self, name):
        core = self.cloud.core
        image = core.create_image(SOURCE.template(SOURCE.name(name, NODES), name), 1)
        machine = core.create_vm_template(render({"NAME": f"{name}-{NODES}", "DISK": {"IMAGE_ID": str(image)}}))
        roles = [
            {"name": each, "type": "vm", "template_id": machine, "cardinality": 2} for each in (COORDINATOR, NODES)
        ]
        document = self.cloud.oneflow.create_service_template({"name": name, "roles": roles})
        core.call("one.image.chmod", image, *SHARED)
        core.call("one.template.chmod", machine, *SHARED)
        self.cloud.oneflow.share_service_template(document, 1, "644")
        self.planted = [image, machine, document]
        return image, machine, document

    def leave(self):
        self.cloud.close()
        if self.planted:
            image, machine, document = self.planted
            self.world.cloud.oneflow.delete_service_template(document)
            self.world.cloud.core.delete_vm_template(machine)
            self.world.cloud.core.delete_image(image)
        self.world.cloud.core.call("one.user.delete", self.number)


@pytest.fixture
def tenant(world):
    made = []

    def make(name):
        made.append(Tenant(world, f"{world.prefix}-{name}"))
        return made[-1]

    yield make
    for each in made:
        each.leave()


@pytest.fixture
def name(world):
    chosen = f"{world.prefix}-plant"
    yield chosen
    unregister(world.cloud, chosen)


def register(world, name):
    images = dict.fromkeys((COORDINATOR, NODES), SOURCE)
    return Registration(world.cloud, Wishes(name, images=images, group="users")).apply()


def test_registering_makes_its_own_beside_what_another_user_planted(world, tenant, name):
    image, machine, document = tenant("eve").plant(name)
    done = register(world, name)
    assert done.templates[ServiceKind.FEDERATION] != document
    assert done.vm_templates[NODES] != machine
    disk = world.cloud.core.vm_template(done.vm_templates[NODES])["DISK"]
    assert disk["IMAGE_ID"] != str(image)
    assert world.cloud.core.image(int(disk["IMAGE_ID"])).owner == 0
    assert register(world, name).changes == ()
    unregister(world.cloud, name)
    assert world.cloud.core.find_image(image), "what is not ours stays"
    assert world.cloud.core.vm_template(machine)


def test_who_deploys_gets_oneadmins_template_or_is_told_whose_it_is(world, tenant, name):
    bob = tenant("bob")
    theirs = tenant("eve").plant(name)[2]
    assert find_registered(bob.cloud, name)[0] == theirs, "there is no other"
    assert bob.said == [f"Note: the service template {name} belongs to {world.prefix}-eve."]
    tenant("mallory").plant(name)
    with pytest.raises(OneflowerError, match=r"There are 2 service templates called .*eve, .*mallory") as caught:
        find_registered(bob.cloud, name)
    assert caught.value.code is ExitCode.CONFLICT
    done = register(world, name)
    bob.said.clear()
    assert find_registered(bob.cloud, name)[0] == done.templates[ServiceKind.FEDERATION]
    assert bob.said == []
