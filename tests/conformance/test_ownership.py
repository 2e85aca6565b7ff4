"""Whose things are, and who may do what with them: users, groups, permissions, locks and ACL rules.

What the real oned answers stands in its source: SharedAPI.cc, AuthManager.cc, AclManager.cc, UserAPI.cc, GroupAPI.cc,
VirtualMachineAPI.cc of 7.4.0. What of it was recorded is in `test_recorded`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import xmlrpc.client

import pytest

from oneflower.opennebula.states import LcmState, VmState

from .cloud import SECRET, LocalServers

ALICE, BOB = "alice:in wonder", "bob:builder"
AUTHENTICATION, AUTHORIZATION, NO_EXISTS, ACTION, RPC_API, INTERNAL = 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000
KEEP = (-1,) * 9
KINDS = {
    "one.template": ("TEMPLATE", "virtual machine template"),
    "one.image": ("IMAGE", "image"),
    "one.vn": ("NET", "virtual network"),
    "one.datastore": ("DATASTORE", "datastore"),
    "one.vm": ("VM", "virtual machine"),
}
LOCKABLE = [kind for kind in KINDS if kind != "one.datastore"]
# What OpenNebula's own schemas (share/doc/xsd) have of each object, in their order; "?" marks what may be missing.
SCHEMAS = {
    ("one.vm.info", 0, ""): "ID UID GID UNAME GNAME NAME PERMISSIONS LAST_POLL STATE LCM_STATE PREV_STATE PREV_LCM_STATE "
    "RESCHED STIME ETIME DEPLOY_ID LOCK? MONITORING SCHED_ACTIONS TEMPLATE USER_TEMPLATE HISTORY_RECORDS SNAPSHOTS? BACKUPS",
    ("one.vmpool.info", -2, "VM"): "ID UID GID UNAME GNAME NAME LAST_POLL STATE LCM_STATE RESCHED STIME ETIME DEPLOY_ID "
    "LOCK? TEMPLATE MONITORING? USER_TEMPLATE HISTORY_RECORDS",
    ("one.template.info", 0, ""): "ID UID GID UNAME GNAME NAME LOCK? PERMISSIONS REGTIME TEMPLATE",
    ("one.image.info", 0, ""): "ID UID GID UNAME GNAME NAME LOCK? PERMISSIONS TYPE DISK_TYPE PERSISTENT REGTIME MODTIME "
    "SOURCE PATH FORMAT FS SIZE STATE PREV_STATE RUNNING_VMS CLONING_OPS CLONING_ID TARGET_SNAPSHOT DATASTORE_ID DATASTORE "
    "VMS CLONES APP_CLONES TEMPLATE SNAPSHOTS BACKUP_INCREMENTS BACKUP_DISK_IDS?",
    ("one.vn.info", 0, ""): "ID UID GID UNAME GNAME NAME LOCK? PERMISSIONS CLUSTERS BRIDGE BRIDGE_TYPE? STATE PREV_STATE "
    "PARENT_NETWORK_ID TEMPLATE_ID VN_MAD PHYDEV VLAN_ID? OUTER_VLAN_ID? VLAN_ID_AUTOMATIC OUTER_VLAN_ID_AUTOMATIC "
    "USED_LEASES VROUTERS UPDATED_VMS OUTDATED_VMS UPDATING_VMS ERROR_VMS TEMPLATE AR_POOL",
    ("one.datastore.info", 1, ""): "ID UID GID UNAME GNAME NAME PERMISSIONS DS_MAD TM_MAD BASE_PATH TYPE DISK_TYPE STATE "
    "CLUSTERS TOTAL_MB FREE_MB USED_MB IMAGES TEMPLATE",
    ("one.host.info", 0, ""): "ID NAME STATE PREV_STATE IM_MAD VM_MAD CLUSTER_ID CLUSTER HOST_SHARE VMS TEMPLATE MONITORING",
    ("one.cluster.info", 0, ""): "ID NAME HOSTS DATASTORES VNETS TEMPLATE PLAN?",
    ("one.zone.info", 0, ""): "ID NAME STATE TEMPLATE SERVER_POOL",
    ("one.user.info", 2, ""): "ID GID GROUPS GNAME NAME PASSWORD AUTH_DRIVER ENABLED LOGIN_TOKEN? TEMPLATE DATASTORE_QUOTA? "
    "NETWORK_QUOTA? VM_QUOTA? IMAGE_QUOTA? DEFAULT_USER_QUOTAS",
    ("one.userpool.info", -2, "USER"): "ID GID GROUPS GNAME NAME PASSWORD AUTH_DRIVER ENABLED LOGIN_TOKEN? TEMPLATE",
    ("one.group.info", 1, ""): "ID NAME TEMPLATE USERS ADMINS DATASTORE_QUOTA? NETWORK_QUOTA? VM_QUOTA? IMAGE_QUOTA? "
    "VLAN_RULES DEFAULT_GROUP_QUOTAS",
    ("one.grouppool.info", -2, "GROUP"): "ID NAME TEMPLATE USERS ADMINS",
    ("one.acl.info", None, "ACL"): "ID USER RESOURCE RIGHTS ZONE STRING",
}  # fmt: skip
SERVICE = {"name": "t", "roles": [{"name": "a", "type": "vm", "template_id": 0, "cardinality": 1, "cooldown": 0}]}


def octet(digits):
    """Return the nine bits of an octet, as clients send them."""
    return [int(digit) >> shift & 1 for digit in digits for shift in (2, 1, 0)]


class World:
    """The core with two users, alice and bob, of the group `users`, and one thing of each kind, oneadmin's."""

    def __init__(self, path):
        self.cloud = LocalServers(path, 1_700_000_000.0)
        self.ids = {
            "one.template": self("one.template.allocate", 'NAME="vm"\nCPU="1"\nCONTEXT=[TOKEN="YES"]'),
            "one.image": self("one.image.allocate", 'NAME="os"\nSIZE="10"', 1),
            "one.vn": self("one.vn.allocate", 'NAME="lan"'),
            "one.datastore": 1,
        }
        self.ids["one.vm"] = self("one.template.instantiate", 0, "first")
        self.cloud.clock.advance(15)
        self.alice = self("one.user.allocate", *ALICE.split(":"), "core", [])
        self.bob = self("one.user.allocate", *BOB.split(":"), "", [])

    def answer(self, method, *parameters, session=SECRET):
        body = xmlrpc.client.dumps((session, *parameters), method)
        return tuple(xmlrpc.client.loads(self.cloud.xmlrpc.post("/RPC2", content=body).text)[0][0])

    def __call__(self, method, *parameters, session=SECRET):
        success, value, _ = self.answer(method, *parameters, session=session)
        assert success, value
        return value

    def refused(self, session, method, *parameters):
        """Return why a call is refused, without the call's name, and the code."""
        success, message, code = self.answer(method, *parameters, session=session)
        assert success is False
        return message.removeprefix(f"[{method}] "), code

    def xml(self, method, *parameters, session=SECRET):
        return ET.fromstring(self(method, *parameters, session=session))

    def info(self, kind, session=SECRET):
        return self.xml(f"{kind}.info", self.ids[kind], session=session)

    def names(self, pool, session=SECRET, whose=-2):
        found = self.xml(f"{pool}.info", whose, -1, -1, session=session)
        return [element.findtext("NAME") for element in found if element.find("NAME") is not None]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "cloud.db")
    yield made
    made.cloud.close()


def bits(element):
    return "".join(bit.text for bit in element.find("PERMISSIONS"))


@pytest.mark.parametrize("which", SCHEMAS, ids=lambda which: which[0])
def test_an_object_has_the_elements_of_its_schema(world, which):
    method, number, part = which
    for kind in LOCKABLE:
        world(f"{kind}.lock", world.ids[kind], 3, False)
    document = world.xml(method, *([] if number is None else [number]))
    known = [name.rstrip("?") for name in SCHEMAS[which].split()]
    needed = [name for name in SCHEMAS[which].split() if not name.endswith("?")]
    for element in document.findall(part) if part else [document]:
        names = [child.tag for child in element]
        assert names == [name for name in known if name in names], "in this order, and no others"
        assert [name for name in names if name in needed] == needed


# -- what has an owner -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_chmod_by_the_owner_and_by_nobody_else(world, kind):
    number, word = world.ids[kind], KINDS[kind][0]
    assert bits(world.info(kind)) == "110000000"
    refused = world.refused(ALICE, f"{kind}.chmod", number, *octet("644"))
    assert refused == (f"User [{world.alice}] : Not authorized to perform MANAGE {word} [{number}].", AUTHORIZATION)
    assert bits(world.info(kind)) == "110000000"
    assert world(f"{kind}.chmod", number, *octet("640")) == number
    assert bits(world.info(kind)) == "110100000"
    world(f"{kind}.chown", number, world.alice, -1)
    assert world(f"{kind}.chmod", number, -1, -1, -1, -1, 1, -1, -1, -1, -1, session=ALICE) == number
    assert bits(world.info(kind)) == "110110000", "-1 leaves a bit as it is"
    refused = world.refused(ALICE, f"{kind}.chmod", number, *octet("740"))
    assert refused[0].endswith(f"Not authorized to perform ADMIN {word} [{number}]."), "an admin bit needs ADMIN"
    wrong = world.refused(SECRET, f"{kind}.chmod", number, 2, *KEEP[1:])
    assert wrong == ("New permission values must be -1, 0 or 1", INTERNAL)
    assert world.refused(SECRET, f"{kind}.chmod", 99, *KEEP) == (f"Error getting {KINDS[kind][1]} [99].", NO_EXISTS)


@pytest.mark.parametrize("kind", KINDS)
def test_chown_and_chgrp(world, kind):
    number = world.ids[kind]
    assert world.refused(SECRET, f"{kind}.chown", number, 99, -1) == ("Error getting user [99].", NO_EXISTS)
    assert world.refused(SECRET, f"{kind}.chown", number, -1, 99) == ("Error getting group [99].", NO_EXISTS)
    assert world.refused(ALICE, f"{kind}.chown", number, world.alice, -1)[1] == AUTHORIZATION
    world(f"{kind}.chown", number, world.alice, 1)
    info = world.info(kind)
    assert [info.findtext(name) for name in ("UID", "GID", "UNAME", "GNAME")] == ["2", "1", "alice", "users"]
    refused = world.refused(ALICE, f"{kind}.chown", number, world.bob, -1)
    assert refused == ("User [2] : Not authorized to perform MANAGE USER [3].", AUTHORIZATION)
    refused = world.refused(ALICE, f"{kind}.chown", number, -1, 0)
    assert refused == ("User [2] : Not authorized to perform USE GROUP [0].", AUTHORIZATION)
    assert world(f"{kind}.chown", number, world.alice, 1, session=ALICE) == number, "to whom it belongs already"


@pytest.mark.parametrize("kind", KINDS)
def test_rename(world, kind):
    number, (word, label) = world.ids[kind], KINDS[kind]
    refused = world.refused(ALICE, f"{kind}.rename", number, "mine")
    assert refused == (f"User [2] : Not authorized to perform MANAGE {word} [{number}].", AUTHORIZATION)
    assert world(f"{kind}.rename", number, "another name") == number
    assert world.info(kind).findtext("NAME") == "another name"
    assert world(f"{kind}.rename", number, "another name") == number
    assert world.refused(SECRET, f"{kind}.rename", number, "") == ("Invalid NAME, it cannot be empty", ACTION)
    refused = world.refused(SECRET, f"{kind}.rename", number, "a|b")
    assert refused == ("Invalid NAME, char '|' is not allowed", ACTION)
    refused = world.refused(SECRET, f"{kind}.rename", number, "n" * 129)
    assert refused == ("Invalid NAME, max length is 128 chars", ACTION)
    assert world.refused(SECRET, f"{kind}.rename", 99, "x") == (f"Error getting {label} [99].", NO_EXISTS)


@pytest.mark.parametrize(
    ("kind", "other"),
    [("one.template", 'NAME="b"'), ("one.vn", 'NAME="b"'), ("one.image", ('NAME="b"\nSIZE="1"', 1))],
)
def test_a_name_is_an_owners_once(world, kind, other):
    number, (word, label) = world.ids[kind], KINDS[kind]
    arguments = other if isinstance(other, tuple) else (other,)
    second = world(f"{kind}.allocate", *arguments)
    refused = world.refused(SECRET, f"{kind}.rename", number, "b")
    assert refused == (f"{label} cannot be renamed to b because it collides with {label} {second}", ACTION)
    refused = world.refused(SECRET, f"{kind}.allocate", *arguments)
    assert refused == (f"NAME is already taken by {word} {second}.", INTERNAL)
    world(f"{kind}.chown", second, world.alice, -1)
    world(f"{kind}.rename", number, "b")
    refused = world.refused(SECRET, f"{kind}.chown", number, world.alice, -1)
    assert refused == (f"user [2] already owns {label} [{second}] with NAME b", INTERNAL)


@pytest.mark.parametrize("kind", LOCKABLE)
def test_a_lock_stops_its_owner_too(world, kind):
    number, word = world.ids[kind], KINDS[kind][0]
    world(f"{kind}.chown", number, world.alice, -1)
    assert world.refused(BOB, f"{kind}.lock", number, 1, False)[1] == AUTHORIZATION
    assert world(f"{kind}.lock", number, 2, False, session=ALICE) == number
    lock = world.info(kind, session=ALICE).find("LOCK")
    assert [lock.findtext(name) for name in ("LOCKED", "OWNER", "TIME")] == ["2", "2", "1700000015"]
    refused = world.refused(ALICE, f"{kind}.rename", number, "x")
    assert refused == (f"User [2] : Not authorized to perform MANAGE {word} [{number}].", AUTHORIZATION)
    assert world.refused(SECRET, f"{kind}.rename", number, "x") == (
        f"User [0] : {word} is locked. [{number}].", AUTHORIZATION,
    )  # fmt: skip
    assert world.refused(SECRET, f"{kind}.lock", number, 9, False) == ("Wrong lock level specified", ACTION)
    assert world(f"{kind}.unlock", number, session=ALICE) == number
    assert world.info(kind).find("LOCK") is None
    world(f"{kind}.lock", number, 4, False)
    assert world.info(kind).findtext("LOCK/LOCKED") == "1", "`all` is as much as `use`"
    refused = world.refused(ALICE, f"{kind}.unlock", number)
    assert refused == ("Cannot unlock: Lock is owned by another user", ACTION)
    world(f"{kind}.unlock", number)
    world(f"{kind}.rename", number, "x", session=ALICE)


def test_a_datastore_has_no_lock(world):
    success, message, code = world.answer("one.datastore.lock", 1, 1, False)
    assert (success, code) == (False, RPC_API)
    assert "does not implement" in message


def test_who_is_asked_for_what_in_a_pool(world):
    """Sources: PoolSharedAPI.cc, PoolSQL.cc."""
    for pool, mine in (("one.templatepool", "vm"), ("one.imagepool", "os"), ("one.vmpool", "first")):
        assert world.names(pool) == [mine]
        assert world.names(pool, ALICE) == []
    world("one.template.chmod", 0, *octet("640"))
    assert world.names("one.templatepool", ALICE) == [], "the group is oneadmin"
    world("one.template.chown", 0, -1, 1)
    assert world.names("one.templatepool", ALICE) == ["vm"]
    assert world.names("one.templatepool", ALICE, -3) == [], "not the own"
    assert world.names("one.templatepool", ALICE, -4) == ["vm"], "of the primary group"
    assert world.names("one.templatepool", ALICE, 0) == ["vm"], "oneadmin's"
    assert world.names("one.templatepool", ALICE, world.bob) == []
    world("one.template.chown", 0, -1, 0)
    world("one.template.chmod", 0, *octet("604"))
    assert world.names("one.templatepool", ALICE) == ["vm"], "others may use it"
    assert world.names("one.vnpool", ALICE) == ["loopback", "lan"], "an ACL rule lets `users` use every network"


def test_it_is_all_remembered(world, tmp_path):
    for kind, number in world.ids.items():
        world(f"{kind}.chown", number, world.alice, 1)
        world(f"{kind}.chmod", number, *octet("640"))
        if kind in LOCKABLE:
            world(f"{kind}.lock", number, 3, False)
    before = [world(f"{kind}.info", number) for kind, number in world.ids.items()]
    before += [world("one.userpool.info"), world("one.grouppool.info"), world("one.acl.info")]
    world.cloud.close()
    world.cloud = LocalServers(tmp_path / "cloud.db", 1_700_000_100.0)
    after = [world(f"{kind}.info", number) for kind, number in world.ids.items()]
    after += [world("one.userpool.info"), world("one.grouppool.info"), world("one.acl.info")]
    free = re.compile(r"<(FREE|USED)_MB>\d+")  # which changes by itself
    assert [free.sub("", xml) for xml in after] == [free.sub("", xml) for xml in before]


# -- templates, images, networks -------------------------------------------------------------------------------------


def test_what_a_tenant_needs_to_make_a_vm(world):
    number = world("one.template.allocate", 'NAME="full"\nDISK=[IMAGE_ID="0"]\nNIC=[NETWORK_ID="1"]')
    refused = world.refused(ALICE, "one.template.instantiate", number, "mine")
    assert refused == (
        "User [2] : Not authorized to perform USE TEMPLATE [1]; Not authorized to perform USE IMAGE [0].",
        AUTHORIZATION,
    )
    for kind, it in (("one.template", number), ("one.image", 0)):
        world(f"{kind}.chown", it, -1, 1)
        world(f"{kind}.chmod", it, *octet("640"))
    vm = world("one.template.instantiate", number, "mine", session=ALICE)
    info = world.xml("one.vm.info", vm, session=ALICE)
    assert [info.findtext(name) for name in ("UNAME", "GNAME", "TEMPLATE/CREATED_BY")] == ["alice", "users", "2"]
    assert world.refused(BOB, "one.vm.info", vm) == (
        f"User [3] : Not authorized to perform USE VM [{vm}].",
        AUTHORIZATION,
    )


def test_an_image_of_another_is_named_with_its_owner(world):
    number = world("one.template.allocate", 'NAME="n"\nDISK=[IMAGE="os"]')
    world("one.template.chmod", number, *octet("604"))
    world("one.image.chmod", 0, *octet("604"))
    refused = world.refused(ALICE, "one.template.instantiate", number, "mine")
    assert refused == (
        "User 2 does not own an image with name: os . Set IMAGE_UNAME or IMAGE_UID of owner in DISK.", ACTION,
    )  # fmt: skip
    world("one.template.update", number, 'DISK=[IMAGE="os", IMAGE_UNAME="oneadmin"]', 1)
    assert world("one.template.instantiate", number, "mine", session=ALICE) == 1


def test_a_tenant_creates_but_no_network(world):
    assert world("one.template.allocate", 'NAME="vm"', session=ALICE) == 1, "a name that is oneadmin's is free"
    assert world("one.image.allocate", 'NAME="os"\nSIZE="1"', 1, session=ALICE) == 1
    refused = world.refused(ALICE, "one.vn.allocate", 'NAME="mine"')
    assert refused == ("User [2] : Not authorized to perform CREATE NET.", AUTHORIZATION)
    assert world.refused(BOB, "one.template.delete", 1)[1] == AUTHORIZATION
    assert world.refused(BOB, "one.template.update", 1, 'A="b"', 0)[1] == AUTHORIZATION
    assert world("one.template.update", 1, 'A="b"', 1, session=ALICE) == 1
    assert world("one.template.delete", 1, session=ALICE) == 1


def test_updates_add_or_replace_and_keep_what_is_fixed(world):
    for kind in ("one.template", "one.image", "one.vn"):
        number = world.ids[kind]
        world(f"{kind}.update", number, 'A="1"\nB="2"', 1)
        world(f"{kind}.update", number, 'B="3"\nNAME="other"', 1)
        info = world.info(kind)
        assert [info.findtext(f"TEMPLATE/{name}") for name in ("A", "B")] == ["1", "3"]
        assert info.findtext("NAME") == {"one.template": "vm", "one.image": "os", "one.vn": "lan"}[kind]
        world(f"{kind}.update", number, 'C="4"', 0)
        assert world.info(kind).find("TEMPLATE/A") is None
        assert world.refused(SECRET, f"{kind}.update", number, "", 7) == ("Wrong update type", RPC_API)
        reason, code = world.refused(SECRET, f"{kind}.update", number, "A=[", 1)
        assert (reason.partition(". ")[0], code) == ("Cannot update template", INTERNAL)


def test_the_images_of_a_template_change_and_go_with_it(world):
    number = world("one.template.allocate", 'NAME="disks"\nDISK=[IMAGE_ID="0"]\nDISK=[IMAGE="os"]\nDISK=[SIZE="5"]')
    world("one.template.chmod", number, *octet("640"))
    assert bits(world.info("one.image")) == "110000000"
    world("one.template.chmod", number, *octet("644"), True)
    assert bits(world.info("one.image")) == "110100100"
    world("one.template.chown", number, world.alice, -1)
    reason = ("Cannot chmod image: 0", ACTION)
    assert world.refused(ALICE, "one.template.chmod", number, *octet("600"), True) == reason
    assert world.refused(ALICE, "one.template.delete", number, True) == ("Cannot delete image: 0", ACTION)
    assert world("one.template.delete", number, True) == number
    assert world.names("one.imagepool") == []


def test_copies_of_images_are_not_pretended(world):
    number = world("one.template.allocate", 'NAME="disk"\nDISK=[IMAGE_ID="0"]')
    assert world.refused(SECRET, "one.template.clone", number, "copy", True)[1] == RPC_API
    assert world("one.template.clone", number, "copy", False) == number + 1
    assert world("one.template.clone", 0, "without images", True) == number + 2
    assert world.refused(SECRET, "one.template.instantiate", 0, "x", False, "", True)[1] == RPC_API


def test_images_are_enabled_and_made_persistent(world):
    assert world("one.image.enable", 0, False) == 0
    assert world.info("one.image").findtext("STATE") == "3"
    assert world("one.image.enable", 0, True) == 0
    assert world("one.image.persistent", 0, True) == 0
    assert [world.info("one.image").findtext(name) for name in ("STATE", "PERSISTENT")] == ["1", "1"]
    assert world.refused(ALICE, "one.image.enable", 0, False)[1] == AUTHORIZATION
    assert world.refused(ALICE, "one.image.persistent", 0, False)[1] == AUTHORIZATION


def test_a_network_that_is_used_is_not_removed(world):
    vm = world("one.template.instantiate", 0, "in it", False, 'NIC=[NETWORK="lan"]')
    refused = world.refused(SECRET, "one.vn.delete", 1)
    assert refused == ("Can not remove a virtual network with leases in use", ACTION)
    world("one.vm.action", "terminate-hard", vm)
    world.cloud.clock.advance(15)
    assert world("one.vn.delete", 1) == 1
    assert world.names("one.vnpool") == ["loopback"]
    assert world.refused(SECRET, "one.vn.info", 1) == ("Error getting virtual network [1].", NO_EXISTS)


# -- VMs -------------------------------------------------------------------------------------------------------------


def test_who_may_do_what_with_a_vm(world):
    world("one.vm.chown", 0, world.alice, 1)
    for method, parameters in (
        ("one.vm.action", ("poweroff", 0)), ("one.vm.update", (0, "A=1", 1)), ("one.vm.recover", (0, 3)),
        ("one.vm.deploy", (0, 0)), ("one.vm.schedadd", (0, "")), ("one.vm.scheddelete", (0, 0)),
    ):  # fmt: skip
        refused = world.refused(BOB, method, *parameters)
        right = "ADMIN" if method in ("one.vm.recover", "one.vm.deploy") else "MANAGE"
        assert refused == (f"User [3] : Not authorized to perform {right} VM [0].", AUTHORIZATION)
    for method, parameters in (("one.vm.recover", (0, 3)), ("one.vm.action", ("resched", 0))):
        refused = world.refused(ALICE, method, *parameters)
        assert refused == ("User [2] : Not authorized to perform ADMIN VM [0].", AUTHORIZATION), "also of the owner"
    assert world("one.vm.action", "poweroff", 0, session=ALICE) == 0
    assert world("one.vm.update", 0, "A=1", 1, session=ALICE) == 0


def test_a_pool_shows_less_of_a_vm_than_asked_for_all(world):
    world("one.vm.update", 0, 'LABELS="a"\nFL_ROLE="superlink"', 1)
    for method, parameters, all_of_it in (
        ("one.vmpool.info", (-2, -1, -1, -1), False), ("one.vmpool.infoextended", (-2, -1, -1, -1), True),
        ("one.vmpool.infoset", ("0", False), False), ("one.vmpool.infoset", ("0", True), True),
    ):  # fmt: skip
        [vm] = world.xml(method, *parameters)
        assert vm.findtext("USER_TEMPLATE/LABELS") == "a"
        assert vm.findtext("TEMPLATE/CPU") == "1"
        for path in ("USER_TEMPLATE/FL_ROLE", "TEMPLATE/CONTEXT", "PERMISSIONS"):
            assert (vm.find(path) is not None) is all_of_it


def test_the_flag_for_another_host(world):
    assert world("one.vm.action", "resched", 0) == 0
    assert world.info("one.vm").findtext("RESCHED") == "1"
    assert world("one.vm.action", "unresched", 0) == 0
    assert world.info("one.vm").findtext("RESCHED") == "0"
    world("one.template.instantiate", 0, "held", True)
    world.cloud.clock.advance(0)
    refused = world.refused(SECRET, "one.vm.action", "resched", 1)
    reason = "Could not set rescheduling flag for VM 1, wrong state HOLD."
    assert refused == (f'Error performing action "resched": {reason}', ACTION)


def test_actions_that_are_refused_or_do_not_exist(world):
    refused = world.refused(SECRET, "one.vm.action", "resume", 0)
    reason = "This action is not available for state RUNNING"
    assert refused == (f'Error performing action "resume": {reason}', ACTION)
    for action in ("migrate", "delete-recreate", "hold-hard", "nonsense"):
        refused = world.refused(SECRET, "one.vm.action", action, 0)
        assert refused == (f'Action "{action}" is not supported', ACTION)
    assert world.refused(SECRET, "one.vm.action", "hold", 99) == ("Error getting virtual machine [99].", NO_EXISTS)


def test_a_vm_that_waits_is_deployed(world):
    vm = world("one.template.instantiate", 0, "held", True)
    world.cloud.clock.advance(15)
    assert world.refused(SECRET, "one.vm.deploy", vm, 7) == ("Error getting host [7].", NO_EXISTS)
    assert world("one.vm.deploy", vm, 0, False, -1, "") == vm
    world.cloud.clock.advance(15)
    assert world.xml("one.vm.info", vm).findtext("LCM_STATE") == "3"
    refused = world.refused(SECRET, "one.vm.deploy", vm, 0)
    assert refused == ("Deploy action is not available for state RUNNING", ACTION)


def test_an_action_is_scheduled_and_taken_back(world):
    action = 'SCHED_ACTION=[ACTION="{}", TIME="{}"]'
    assert world("one.vm.schedadd", 0, action.format("suspend", 1_700_000_100)) == 0
    assert world("one.vm.schedadd", 0, action.format("poweroff", "+20")) == 1
    shown = world.info("one.vm").findall("TEMPLATE/SCHED_ACTION")
    assert [it.findtext("TIME") for it in shown] == ["1700000100", "1700000035"]
    assert world("one.vm.scheddelete", 0, 0) == 0
    assert world.refused(SECRET, "one.vm.scheddelete", 0, 0) == ("Sched action doesn't exist.", INTERNAL)
    world.cloud.clock.advance(25)
    assert world.info("one.vm").findtext("STATE") == "8"
    for text in ('A="1"', action.format("suspend", "soon")):
        assert world.refused(SECRET, "one.vm.schedadd", 0, text)[1] == INTERNAL
    for text in (action.format("snapshot-create", "+5"), 'SCHED_ACTION=[ACTION="hold",TIME="+1",REPEAT="0",DAYS="1"]'):
        reason, code = world.refused(SECRET, "one.vm.schedadd", 0, text)
        assert ("does not implement" in reason, code) == (True, RPC_API)


def test_tokens_are_made_with_the_password_of_the_creator(world):
    world("one.template.chmod", 0, *octet("604"))
    vm = world("one.template.instantiate", 0, "mine", session=ALICE)
    assert world.cloud.put(vm, "A=1").status_code == 200
    own = world.xml("one.user.info", -1, session=ALICE).findtext("TEMPLATE/TOKEN_PASSWORD")
    assert own != world.xml("one.user.info", -1).findtext("TEMPLATE/TOKEN_PASSWORD")
    headers = world.cloud.headers(vm) | {"X-ONEGATE-VMID": "0"}
    assert world.cloud.onegate.get("/vm", headers=headers).status_code == 401
    headers = world.cloud.headers(vm)
    world("one.user.delete", world.alice)
    assert world.cloud.onegate.get("/vm", headers=headers).status_code == 401, "as there, where nobody can check it"


# -- users, groups, rules --------------------------------------------------------------------------------------------


def test_who_comes_in(world):
    for session in ("alice:wrong", "nobody:x", "alice:", "alice", "", "serveradmin:", "oneadmin:"):
        assert world.answer("one.system.version", session=session)[2] == AUTHENTICATION
        assert world.cloud.as_user(*session.partition(":")[::2]).get("/service").status_code == 401
    assert world("one.system.version", session=ALICE) == "7.4.0"
    assert world.cloud.as_user(*ALICE.split(":")).get("/service").status_code == 200
    world("one.user.enable", world.alice, False)
    assert world.answer("one.system.version", session=ALICE)[2] == AUTHENTICATION
    world("one.user.enable", world.alice, True)
    world("one.user.passwd", world.alice, "a:b", session=ALICE)
    assert world("one.system.version", session="alice:a:b") == "7.4.0"
    assert world.answer("one.system.version", session=ALICE)[2] == AUTHENTICATION


def test_a_login_token_is_as_good_as_a_password_while_it_is_valid(world):
    token = world("one.user.login", "alice", "", 100, -1, session=ALICE)
    forever = world("one.user.login", "alice", "my own", -1)
    assert forever == "my own"
    shown = world.xml("one.user.info", world.alice).findall("LOGIN_TOKEN")
    assert [[part.text for part in it] for it in shown] == [[token, "1700000115", "-1"], ["my own", "-1", "-1"]]
    for secret in (token, "my own"):
        assert world("one.system.version", session=f"alice:{secret}") == "7.4.0"
        assert world.cloud.as_user("alice", secret).get("/service").status_code == 200
        assert world.answer("one.system.version", session=f"bob:{secret}")[2] == AUTHENTICATION
    world.cloud.clock.advance(100)
    assert world.answer("one.system.version", session=f"alice:{token}")[2] == AUTHENTICATION
    assert world("one.system.version", session="alice:my own") == "7.4.0"
    refused = world.refused(BOB, "one.user.login", "alice", "", 100, -1)
    assert refused == ("User [3] : Not authorized to perform MANAGE USER [2].", AUTHORIZATION)
    assert world.refused(SECRET, "one.user.login", "alice", "none", 0) == ("Could not find token: none", RPC_API)
    assert world.refused(SECRET, "one.user.login", "alice", "", -2) == ("Wrong valid period for token", RPC_API)
    assert world.refused(SECRET, "one.user.login", "nobody", "", 5) == ("Error getting user Pool.", NO_EXISTS)
    assert world.refused(SECRET, "one.user.login", "alice", "", 5, 1)[1] == RPC_API
    for _ in range(9):
        world("one.user.login", "alice", "", 5)
    assert world.refused(SECRET, "one.user.login", "alice", "", 5) == ("Max number of tokens limit reached.", RPC_API)
    assert world("one.user.login", "alice", "my own", 0) == "my own"
    assert world.answer("one.system.version", session="alice:my own")[2] == AUTHENTICATION
    world("one.user.login", "alice", "", 0)
    assert world.xml("one.user.info", world.alice).find("LOGIN_TOKEN") is None
    own = world("one.user.login", "oneadmin", "", 50)
    assert world("one.user.info", 0, session=f"oneadmin:{own}")


def test_a_user_is_shown_as_the_tools_need_it(world):
    user = world.xml("one.user.info", world.alice)
    assert [user.findtext(name) for name in ("NAME", "GID", "GNAME", "ENABLED", "AUTH_DRIVER")] == [
        "alice", "1", "users", "1", "core",
    ]  # fmt: skip
    assert [group.text for group in user.findall("GROUPS/ID")] == ["1"]
    for quota in ("DATASTORE_QUOTA", "NETWORK_QUOTA", "VM_QUOTA", "IMAGE_QUOTA"):
        assert user.find(quota) is not None
        assert user.find(f"DEFAULT_USER_QUOTAS/{quota}") is not None
    assert "in wonder" not in ET.tostring(user, encoding="unicode")
    group = world.xml("one.group.info", 1)
    assert [it.text for it in group.findall("USERS/ID")] == ["2", "3"]
    assert group.find("VM_QUOTA") is not None
    pool = world.xml("one.userpool.info")
    assert [quotas.findtext("ID") for quotas in pool.findall("QUOTAS")] == ["0", "1", "2", "3"], "beside the users"
    assert pool.find("DEFAULT_USER_QUOTAS/VM_QUOTA") is not None
    assert world.names("one.userpool") == ["oneadmin", "serveradmin", "alice", "bob"]
    assert world.names("one.userpool", ALICE) == ["alice"]
    assert world.names("one.grouppool", ALICE) == ["users"]


def test_what_a_user_may_not_do_with_others(world):
    for method, parameters, right in (
        ("one.user.info", (world.bob,), "USE USER [3]"), ("one.user.passwd", (world.bob, "x"), "MANAGE USER [3]"),
        ("one.user.update", (world.bob, "A=1", 1), "MANAGE USER [3]"), ("one.user.delete", (world.alice,), "ADMIN USER [2]"),
        ("one.user.enable", (world.bob, False), "ADMIN USER [3]"), ("one.user.allocate", ("x", "y", ""), "CREATE USER"),
        ("one.user.chgrp", (world.alice, 0), "USE GROUP [0]"), ("one.user.addgroup", (world.alice, 0), "MANAGE GROUP [0]"),
        ("one.group.allocate", ("x",), "CREATE GROUP"), ("one.group.info", (0,), "USE GROUP [0]"),
        ("one.group.update", (1, "A=1", 1), "ADMIN GROUP [1]"), ("one.group.delete", (1,), "ADMIN GROUP [1]"),
        ("one.acl.info", (), "MANAGE ACL"), ("one.acl.addrule", ("1", "1", "1"), "MANAGE ACL"),
        ("one.acl.delrule", (0,), "MANAGE ACL"),
    ):  # fmt: skip
        refused = world.refused(ALICE, method, *parameters)
        assert refused == (f"User [2] : Not authorized to perform {right}.", AUTHORIZATION), method
    assert world("one.user.update", world.alice, 'SSH_PUBLIC_KEY="ssh-x"', 0, session=ALICE) == world.alice
    template = world.xml("one.user.info", -1, session=ALICE).find("TEMPLATE")
    assert sorted(element.tag for element in template) == ["SSH_PUBLIC_KEY", "TOKEN_PASSWORD"]


def test_groups_are_made_joined_and_left(world):
    group = world("one.group.allocate", "tenants")
    assert group == 100
    assert world.refused(SECRET, "one.group.allocate", "tenants") == ("NAME is already taken by GROUP 100.", INTERNAL)
    assert world("one.user.addgroup", world.alice, group) == world.alice
    assert world.refused(SECRET, "one.user.addgroup", world.alice, group) == ("User is already in this group", ACTION)
    assert world.refused(SECRET, "one.group.delete", group) == ("Group 100 is not empty.", ACTION)
    world("one.template.chown", 0, -1, group)
    world("one.template.chmod", 0, *octet("640"))
    assert (world.names("one.templatepool", ALICE), world.names("one.templatepool", BOB)) == (["vm"], [])
    world("one.user.chgrp", world.bob, group)
    assert world.xml("one.user.info", world.bob).findtext("GNAME") == "tenants"
    assert world.names("one.vnpool", BOB) == ["loopback", "lan"], "a new group may use what the default VDC has"
    refused = world.refused(SECRET, "one.user.delgroup", world.bob, group)
    assert refused == ("Cannot remove user from the primary group", ACTION)
    world("one.user.delgroup", world.alice, group)
    assert world.refused(SECRET, "one.user.delgroup", world.alice, group) == ("User is not part of this group", ACTION)
    assert world.names("one.templatepool", ALICE) == []
    world("one.user.delete", world.bob)
    assert world("one.group.delete", group) == group
    assert len(world.xml("one.acl.info")) == 5, "its rules go with it"
    assert world.refused(SECRET, "one.group.delete", 1) == ("System Groups (ID < 100) cannot be deleted.", ACTION)


def test_users_are_made_and_removed(world):
    assert world.refused(SECRET, "one.user.allocate", "alice", "x", "") == (
        "NAME is already taken by USER 2.",
        INTERNAL,
    )
    assert world.refused(SECRET, "one.user.allocate", "x", "x", "", [99]) == ("Error getting group [99].", NO_EXISTS)
    assert world.refused(SECRET, "one.user.allocate", "a:b", "x", "")[1] == INTERNAL
    assert world.refused(SECRET, "one.user.allocate", "x", "x", "ldap")[1] == RPC_API
    assert world("one.user.allocate", "carol", "x", "core", [1, 0]) == 4
    assert world.xml("one.user.info", 4).findtext("GID") == "1", "the first group is the primary one"
    assert world("one.user.info", 0, session="carol:x"), "a member of oneadmin may do everything"
    world("one.acl.addrule", "100000004", "8100000000", "1", "100000000")
    assert world("one.user.delete", 4) == 4
    assert len(world.xml("one.acl.info")) == 5, "the rules about a user go with it"
    assert world.answer("one.system.version", session="carol:x")[2] == AUTHENTICATION
    for number in (0, 1):
        assert world.refused(SECRET, "one.user.delete", number)[1] == ACTION
        assert world.refused(SECRET, "one.user.passwd", number, "x")[1] == RPC_API


def test_a_rule_lets_a_user_use_what_permissions_do_not(world):
    rules = {rule.findtext("ID"): rule.findtext("STRING") for rule in world.xml("one.acl.info")}
    assert rules == {
        "0": "@1 VM+IMAGE+TEMPLATE+DOCUMENT+SECGROUP+VMGROUP+BACKUPJOB/* CREATE *",
        "1": "* ZONE/* USE *",
        "2": "* MARKETPLACE+MARKETPLACEAPP/* USE *",
        "3": "@1 HOST/* MANAGE #0",
        "4": "@1 NET+DATASTORE/* USE #0",
    }
    assert world.refused(BOB, "one.image.info", 0)[1] == AUTHORIZATION
    parts = ("100000003", "8100000000", "3", "100000000")  # #3 IMAGE/#0 USE+MANAGE #0
    rule = world("one.acl.addrule", *parts)
    assert world("one.image.rename", 0, "bobs", session=BOB) == 0
    assert world.names("one.imagepool", BOB) == ["bobs"]
    assert world.refused(ALICE, "one.image.info", 0)[1] == AUTHORIZATION
    assert world.refused(SECRET, "one.acl.addrule", *parts)[1] == ACTION
    assert world.refused(SECRET, "one.acl.addrule", *parts[:3], "")[1] == ACTION, "no zone is this zone"
    assert world.refused(SECRET, "one.acl.addrule", *parts[:3])[1] == ACTION
    assert world("one.acl.delrule", rule) == rule
    assert world.refused(BOB, "one.image.info", 0)[1] == AUTHORIZATION
    assert world.refused(SECRET, "one.acl.delrule", rule)[1] == ACTION


# -- the place -------------------------------------------------------------------------------------------------------


def test_there_is_one_host_with_all_vms_in_one_cluster_of_one_zone(world):
    host = world.xml("one.host.info", 0)
    assert [host.findtext(name) for name in ("NAME", "STATE", "CLUSTER", "HOST_SHARE/RUNNING_VMS")] == [
        "localhost", "2", "default", "1",
    ]  # fmt: skip
    assert int(host.findtext("HOST_SHARE/MAX_MEM")) > int(host.findtext("HOST_SHARE/MEM_USAGE")) >= 0
    assert [it.text for it in host.findall("VMS/ID")] == ["0"]
    assert world.names("one.hostpool") == ["localhost"]
    assert world.names("one.clusterpool") == ["default"]
    assert world.names("one.zonepool") == ["OpenNebula"]
    assert [it.text for it in world.xml("one.cluster.info", 0).findall("VNETS/ID")] == ["0", "1"]
    assert [it.text for it in world.xml("one.datastore.info", 1).findall("IMAGES/ID")] == ["0"]
    for method, label in (("one.host", "host"), ("one.cluster", "cluster"), ("one.zone", "zone")):
        assert world.refused(SECRET, f"{method}.info", 5) == (f"Error getting {label} [5].", NO_EXISTS)
    assert world.refused(ALICE, "one.cluster.info", 0)[1] == AUTHORIZATION
    assert world.xml("one.zone.info", 0, session=ALICE).findtext("TEMPLATE/ENDPOINT")


# -- OneFlow ---------------------------------------------------------------------------------------------------------


class Flow:
    """OneFlow with the requests of a user."""

    def __init__(self, world, session):
        self.http = world.cloud.as_user(*session.split(":", 1))

    def act(self, path, perform, **params):
        body = {"action": {"perform": perform, "params": params}}
        return self.http.post(f"{path}/action", json=body)


@pytest.fixture
def flows(world):
    world("one.template.chmod", 0, *octet("604"))
    return {name: Flow(world, session) for name, session in (("admin", SECRET), ("alice", ALICE), ("bob", BOB))}


def test_a_service_belongs_to_who_deploys_it(world, flows):
    made = flows["admin"].http.post("/service_template", json=SERVICE).json()["DOCUMENT"]
    path, number = f"/service_template/{made['ID']}", made["ID"]
    refused = flows["alice"].http.get(path)
    text = f"[one.document.info] User [2] : Not authorized to perform USE DOCUMENT [{number}]."
    assert (refused.status_code, refused.text) == (401, text)
    assert flows["alice"].act(path, "instantiate").status_code == 401
    assert flows["admin"].act(path, "chgrp", group_id=1).status_code == 204
    assert flows["admin"].act(path, "chmod", octet="640").status_code == 204
    assert flows["alice"].http.get(path).json()["DOCUMENT"]["GNAME"] == "users"
    service = flows["alice"].act(path, "instantiate", merge_template={}).json()["DOCUMENT"]
    assert [service[key] for key in ("UNAME", "GNAME", "UID", "GID")] == ["alice", "users", "2", "1"]
    world.cloud.clock.advance(15)
    body = flows["alice"].http.get(f"/service/{service['ID']}").json()["DOCUMENT"]["TEMPLATE"]["BODY"]
    [node] = body["roles"][0]["nodes"]
    assert node["vm_info"]["VM"]["UNAME"] == "alice"
    assert world.refused(BOB, "one.vm.info", node["deploy_id"])[1] == AUTHORIZATION
    for seen, name in ((1, "alice"), (0, "bob"), (1, "admin")):
        pool = flows[name].http.get("/service").json()["DOCUMENT_POOL"]
        assert len(pool.get("DOCUMENT", [])) == seen
    for perform in ("recover", "release", "chmod", "rename"):
        assert flows["bob"].act(f"/service/{service['ID']}", perform, octet="644", name="x").status_code == 401
    assert flows["bob"].http.delete(f"/service/{service['ID']}").status_code == 401
    assert flows["alice"].http.delete(f"/service/{service['ID']}").status_code == 204


def test_who_may_use_a_service_may_not_manage_it(world, flows):
    template = flows["alice"].http.post("/service_template", json=SERVICE).json()["DOCUMENT"]["ID"]
    service = flows["alice"].act(f"/service_template/{template}", "instantiate").json()["DOCUMENT"]["ID"]
    world.cloud.clock.advance(15)
    for path in (f"/service/{service}", f"/service_template/{template}"):
        assert flows["alice"].act(path, "chmod", octet="640").status_code == 204
        assert flows["bob"].http.get(path).status_code == 200
        delete = flows["bob"].http.delete(path)
        assert delete.status_code == 401
        assert f"User [3] : Not authorized to perform MANAGE DOCUMENT [{path.rpartition('/')[2]}]." in delete.text
    scale = flows["bob"].http.post(
        f"/service/{service}/scale", json={"role_name": "a", "cardinality": 2, "force": False}
    )
    assert scale.status_code == 401
    text = "[one.document.chmod] User [3] : Not authorized to perform MANAGE DOCUMENT"
    refused = flows["bob"].act(f"/service/{service}", "chmod", octet="666")
    assert (refused.status_code, refused.text) == (401, f"{text} [{service}].")
    before = flows["alice"].http.get(f"/service_template/{template}").json()
    assert flows["bob"].act(f"/service_template/{template}", "chmod", octet="666").status_code == 204, (
        "it does not look"
    )
    assert flows["alice"].http.get(f"/service_template/{template}").json() == before
    copied = flows["bob"].act(f"/service_template/{template}", "clone", name="copy", recursive="none")
    assert (copied.status_code, copied.json()["DOCUMENT"]["UNAME"]) == (201, "bob")


def test_the_vms_of_a_service_change_hands_with_it(world, flows):
    template = flows["admin"].http.post("/service_template", json=SERVICE).json()["DOCUMENT"]["ID"]
    service = flows["admin"].act(f"/service_template/{template}", "instantiate").json()["DOCUMENT"]["ID"]
    world.cloud.clock.advance(15)
    assert flows["admin"].act(f"/service/{service}", "chown", owner_id=2, group_id=1).status_code == 204
    owner = [world.xml("one.vm.info", 1).findtext(name) for name in ("UNAME", "GNAME")]
    assert owner == ["alice", "users"]
    assert flows["admin"].act(f"/service/{service}", "chown", owner_id=0).status_code == 204, "0 is a user"
    assert flows["admin"].act(f"/service/{service}", "chgrp", group_id=0).status_code == 204
    assert [world.xml("one.vm.info", 1).findtext(name) for name in ("UNAME", "GNAME")] == ["oneadmin"] * 2
    world("one.vm.lock", 1, 1, False)
    refused = flows["admin"].act(f"/service/{service}", "chown", owner_id=2)
    assert (refused.status_code, refused.text) == (401, "[one.vm.chown] User [0] : VM is locked. [1].")
    assert flows["admin"].http.get(f"/service/{service}").json()["DOCUMENT"]["UNAME"] == "oneadmin"
    assert flows["admin"].act(f"/service/{service}", "chown", owner_id=99).status_code == 404


def test_a_locked_vm_holds_up_the_end_of_its_service(world, flows):
    """Sources: shutdown_nodes of vmrole.rb, undeploy_action of LifeCycleManager.rb."""
    body = SERVICE | {"roles": [SERVICE["roles"][0] | {"cardinality": 2}]}
    template = flows["admin"].http.post("/service_template", json=body).json()["DOCUMENT"]["ID"]
    path = f"/service/{flows['admin'].act(f'/service_template/{template}', 'instantiate').json()['DOCUMENT']['ID']}"
    world.cloud.clock.advance(15)
    world("one.vm.lock", 1, 1, False)
    refused = flows["admin"].http.delete(path)
    assert (refused.status_code, refused.text) == (500, "Error undeploying role a: [2]")
    world.cloud.clock.advance(15)
    service = flows["admin"].http.get(path).json()["DOCUMENT"]["TEMPLATE"]["BODY"]
    assert (service["state"], service["roles"][0]["state"]) == (6, 6), "FAILED_UNDEPLOYING"
    assert [world.xml("one.vm.info", number).findtext("STATE") for number in (1, 2)] == ["3", "6"]
    assert [line["message"] for line in service["log"] if line["severity"] == "E"] == [
        "Role a : Terminate failed for VM 1, will perform a Delete; [one.vm.action] User [0] : VM is locked. [1].",
        "Role a : Delete failed for VM 1; [one.vm.recover] User [0] : VM is locked. [1].",
    ]
    world("one.vm.unlock", 1)
    assert flows["admin"].act(path, "recover").status_code == 204
    world.cloud.clock.advance(15)
    assert flows["admin"].http.get(path).status_code == 404
    assert world.names("one.vmpool") == ["first"]


def test_a_locked_vm_holds_up_a_scale_down(world, flows):
    body = SERVICE | {"roles": [SERVICE["roles"][0] | {"cardinality": 2}]}
    template = flows["admin"].http.post("/service_template", json=body).json()["DOCUMENT"]["ID"]
    path = f"/service/{flows['admin'].act(f'/service_template/{template}', 'instantiate').json()['DOCUMENT']['ID']}"
    world.cloud.clock.advance(15)
    world("one.vm.lock", 1, 1, False)
    refused = flows["admin"].http.post(f"{path}/scale", json={"role_name": "a", "cardinality": 1, "force": True})
    assert (refused.status_code, refused.text) == (500, "Error undeploying role a: []")
    service = flows["admin"].http.get(path).json()["DOCUMENT"]["TEMPLATE"]["BODY"]
    assert (service["state"], service["roles"][0]["state"]) == (9, 9), "FAILED_SCALING"
    world("one.vm.unlock", 1)
    assert flows["admin"].act(path, "recover").status_code == 204
    world.cloud.clock.advance(15)
    service = flows["admin"].http.get(path).json()["DOCUMENT"]["TEMPLATE"]["BODY"]
    assert (service["state"], [node["deploy_id"] for node in service["roles"][0]["nodes"]]) == (2, [2])


# -- disks -----------------------------------------------------------------------------------------------------------


def disks_of(world, vm):
    info = world.xml("one.vm.info", vm)
    state = VmState(int(info.findtext("STATE"))), LcmState(int(info.findtext("LCM_STATE")))
    wanted = ("DISK_ID", "IMAGE_ID", "TARGET", "ORDER")
    return state, [tuple(disk.findtext(name) or "" for name in wanted) for disk in info.findall("TEMPLATE/DISK")]


def test_a_disk_is_attached_and_detached_and_the_machine_boots_from_it(world):
    """Sources: DispatchManagerActions.cc, VirtualMachineDisk.cc, and set_boot_order of VirtualMachine.cc."""
    other = world("one.image.allocate", 'NAME="new"\nSIZE="20"\nDEV_PREFIX="vd"', 1)
    template = world(
        "one.template.allocate",
        'NAME="disk"\nDISK=[IMAGE_ID="0", DEV_PREFIX="vd"]\nOS=[BOOT="disk0", ARCH="x86_64"]\nCONTEXT=[A="$DISK[IMAGE_ID]"]',
    )
    vm = world("one.template.instantiate", template, "it")
    world.cloud.clock.advance(15)
    running, off = (VmState.ACTIVE, LcmState.RUNNING), (VmState.POWEROFF, LcmState.LCM_INIT)
    assert disks_of(world, vm) == (running, [("0", "0", "vda", "1")])
    assert world.xml("one.vm.info", vm).findtext("TEMPLATE/CONTEXT/DISK_ID") == "1"
    assert world("one.vm.action", "poweroff", vm) is not None
    world.cloud.clock.advance(15)
    assert world("one.vm.attach", vm, f'DISK=[IMAGE_ID="{other}"]') == vm
    state, _ = disks_of(world, vm)
    assert state == (VmState.ACTIVE, LcmState.HOTPLUG_PROLOG_POWEROFF)
    assert world.refused(SECRET, "one.vm.attach", vm, f'DISK=[IMAGE_ID="{other}"]') == (
        f"Could not attach a new disk to VM {vm}, wrong state HOTPLUG_PROLOG_POWEROFF.", ACTION,
    )  # fmt: skip
    world("one.vm.updateconf", vm, 'OS=[BOOT="disk2"]', 1)
    world.cloud.clock.advance(1)
    assert disks_of(world, vm) == (off, [("0", "0", "vda", ""), ("2", str(other), "vdb", "1")])
    info = world.xml("one.vm.info", vm)
    assert [info.findtext(f"TEMPLATE/OS/{name}") for name in ("BOOT", "ARCH")] == ["disk2", "x86_64"]
    assert world.refused(SECRET, "one.vm.updateconf", vm, 'OS=[BOOT="disk7"]', 1) == (
        "Wrong OS/BOOT value. Device with DISK_ID 7 not found", INTERNAL,
    )  # fmt: skip
    assert world.refused(SECRET, "one.vm.updateconf", vm, 'OS=[BOOT="sda"]', 1)[1] == INTERNAL
    world("one.vm.action", "resume", vm)
    world.cloud.clock.advance(15)
    world("one.vm.detach", vm, 0)
    assert disks_of(world, vm)[0] == (VmState.ACTIVE, LcmState.HOTPLUG)
    world.cloud.clock.advance(1)
    assert disks_of(world, vm) == (running, [("2", str(other), "vdb", "1")])
    assert world.refused(SECRET, "one.vm.detach", vm, 0) == ("VM disk does not exist", ACTION)


def test_who_may_attach_what(world):
    world("one.vm.chown", 0, world.alice, -1)
    assert world.refused(ALICE, "one.vm.attach", 0, 'DISK=[IMAGE_ID="0"]') == (
        "User [2] : Not authorized to perform USE IMAGE [0].", AUTHORIZATION,
    )  # fmt: skip
    assert world.refused(BOB, "one.vm.detach", 0, 0)[1] == AUTHORIZATION
    world("one.image.chmod", 0, *octet("604"))
    small = world.refused(ALICE, "one.vm.attach", 0, 'DISK=[IMAGE_ID="0", SIZE="5"]')
    assert small == ("SIZE of 5MB is less than the image [0] size of 10MB.", ACTION)
    assert world("one.vm.attach", 0, 'DISK=[IMAGE_ID="0"]', session=ALICE) == 0
    held = world("one.template.instantiate", 0, "held", True)
    assert world.refused(SECRET, "one.vm.attach", held, 'DISK=[IMAGE_ID="0"]') == (
        "VM is not running in any host", ACTION,
    )  # fmt: skip
