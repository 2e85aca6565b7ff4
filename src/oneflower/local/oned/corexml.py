"""The core's objects as the core's XML, with the parts that clients and OneFlow read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from oneflower.local.oned.accounts import SERVERADMIN
from oneflower.local.oned.models import permission_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oneflower.local.oned.accounts import Group, User
    from oneflower.local.oned.models import Access, Datastore, Image, Network, Vm, VmTemplate
    from oneflower.local.oned.rights import Rule

_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(name: str, content: Any) -> ET.Element:
    """Return data as an element: an object becomes children, a list becomes repeated children."""
    node = ET.Element(name)
    if isinstance(content, dict):
        for key, value in content.items():
            for item in value if isinstance(value, list) else [value]:
                node.append(element(key, item))
    else:
        node.text = _ILLEGAL.sub("", str(content))
    return node


def text(node: ET.Element) -> str:
    """Return an element as text."""
    return ET.tostring(node, encoding="unicode")


def _sorted(template: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _sorted(value) if isinstance(value, dict) else value for key, value in sorted(template.items())}


def vm_data(vm: Vm) -> dict[str, Any]:
    """Return a VM as one.vm.info and OneGate's extended service show it. Every value is text."""
    actions = {"SCHED_ACTION": vm.sched_actions} if vm.sched_actions else {}
    record = {
        "OID": str(vm.id),
        "SEQ": "0",
        "HOSTNAME": "localhost",
        "HID": "0",
        "CID": "0",
        "STIME": str(vm.stime),
        "ETIME": str(vm.etime),
        "VM_MAD": "oneflower",
        "TM_MAD": "oneflower",
        "DS_ID": "0",
    }
    user = _sorted(vm.user_template | ({"ERROR": vm.error} if vm.error else {}))
    return {
        **vm.owner(),
        "PERMISSIONS": permission_bits(vm.access.octet),
        "LAST_POLL": "0",
        "STATE": str(int(vm.state)),
        "LCM_STATE": str(int(vm.lcm_state)),
        "PREV_STATE": str(int(vm.state)),
        "PREV_LCM_STATE": str(int(vm.lcm_state)),
        "RESCHED": str(int(vm.resched)),
        "STIME": str(vm.stime),
        "ETIME": str(vm.etime),
        "DEPLOY_ID": f"{vm.pid}" if vm.pid else "",
        **vm.access.locked(),
        "MONITORING": {},
        "SCHED_ACTIONS": {},
        "TEMPLATE": _sorted(vm.template | actions),
        "USER_TEMPLATE": user,
        "HISTORY_RECORDS": {} if int(vm.state) <= 2 else {"HISTORY": record},
        "BACKUPS": {"BACKUP_CONFIG": {}, "BACKUP_IDS": {}},
    }


def vm_xml(vm: Vm) -> ET.Element:
    """Return a VM as one.vm.info does."""
    return element("VM", vm_data(vm))


def find(vm: Vm, path: Sequence[str]) -> str | None:
    """Return the text of all elements at the end of `path`, which begins anywhere in a VM; None if there are none."""
    try:
        found = vm_xml(vm).findall(".//" + "/".join(path))
    except SyntaxError:
        return None
    return "".join("".join(node.itertext()) for node in found) if found else None


def _head(number: int, name: str, access: Access) -> dict[str, Any]:
    """Return the elements with which everything begins that has an owner."""
    permissions = permission_bits(access.octet)
    return {"ID": number, **access.owner(), "NAME": name, **access.locked(), "PERMISSIONS": permissions}


def vm_template_xml(template: VmTemplate) -> ET.Element:
    """Return a VM template as one.template.info does."""
    head = _head(template.id, template.name, template.access)
    return element("VMTEMPLATE", head | {"REGTIME": template.regtime, "TEMPLATE": _sorted(template.body)})


def image_xml(image: Image) -> ET.Element:
    """Return an image as one.image.info does."""
    rest = {key: value for key, value in image.template.items() if key not in ("NAME", "PATH")}
    content = {
        **_head(image.id, image.name, image.access),
        "TYPE": 0,
        "DISK_TYPE": 0,
        "PERSISTENT": int(image.persistent),
        "REGTIME": image.regtime,
        "MODTIME": image.regtime,
        "SOURCE": "",
        "PATH": image.template.get("PATH", ""),
        "FORMAT": "qcow2",
        "FS": "",
        "SIZE": image.template.get("SIZE", "0"),
        "STATE": image.state,
        "RUNNING_VMS": 0,
        "CLONING_OPS": 0,
        "CLONING_ID": -1,
        "TARGET_SNAPSHOT": -1,
        "DATASTORE_ID": 1,
        "DATASTORE": "default",
        "VMS": {},
        "CLONES": {},
        "APP_CLONES": {},
        "TEMPLATE": _sorted(rest),
        "SNAPSHOTS": {"ALLOW_ORPHANS": "NO", "CURRENT_BASE": "-1", "NEXT_SNAPSHOT": "0"},
        "BACKUP_INCREMENTS": {},
        "BACKUP_DISK_IDS": {},
    }
    return element("IMAGE", content)


def network_xml(network: Network) -> ET.Element:
    """Return a virtual network as one.vn.info does, with what clients need."""
    content = {
        **_head(network.id, network.name, network.access),
        "CLUSTERS": {"ID": 0},
        "BRIDGE": "lo",
        "BRIDGE_TYPE": "linux",
        "STATE": 1,
        "PREV_STATE": 1,
        "PARENT_NETWORK_ID": "",
        "VN_MAD": "oneflower",
        "PHYDEV": "",
        "VLAN_ID": "",
        "OUTER_VLAN_ID": "",
        "VLAN_ID_AUTOMATIC": "",
        "OUTER_VLAN_ID_AUTOMATIC": "",
        "USED_LEASES": 0,
        "VROUTERS": {},
        "UPDATED_VMS": {},
        "OUTDATED_VMS": {},
        "UPDATING_VMS": {},
        "ERROR_VMS": {},
        "TEMPLATE": _sorted(network.template),
        "AR_POOL": {},
    }
    return element("VNET", content)


def datastore_xml(datastore: Datastore, images: Sequence[int]) -> ET.Element:
    """Return a datastore as one.datastore.info does, with what clients need."""
    content = {
        **_head(datastore.id, datastore.name, datastore.access),
        "DS_MAD": "fs",
        "TM_MAD": "oneflower",
        "BASE_PATH": "",
        "TYPE": {0: 1, 1: 0, 2: 2}.get(datastore.id, 0),
        "DISK_TYPE": 0,
        "STATE": 0,
        "CLUSTERS": {"ID": 0},
        "TOTAL_MB": 0,
        "FREE_MB": 0,
        "USED_MB": 0,
        "IMAGES": {"ID": list(images)} if images else {},
        "TEMPLATE": {},
    }
    return element("DATASTORE", content)


_QUOTAS: dict[str, Any] = {"DATASTORE_QUOTA": {}, "NETWORK_QUOTA": {}, "VM_QUOTA": {}, "IMAGE_QUOTA": {}}


def user_xml(user: User, gname: str, *, quotas: bool = True) -> ET.Element:
    """Return a user as one.user.info does: without quotas in use, because there are none here."""
    content = {
        "ID": user.id,
        "GID": user.gid,
        "GROUPS": {"ID": list(user.groups)},
        "GNAME": gname,
        "NAME": user.name,
        "PASSWORD": user.digest,
        "AUTH_DRIVER": "server_cipher" if user.id == SERVERADMIN else "core",
        "ENABLED": int(user.enabled),
        "TEMPLATE": _sorted(user.template),
    }
    return element("USER", content | (_QUOTAS | {"DEFAULT_USER_QUOTAS": _QUOTAS} if quotas else {}))


def group_xml(group: Group, members: Sequence[int], *, quotas: bool = True) -> ET.Element:
    """Return a group as one.group.info does."""
    content = {
        "ID": group.id,
        "NAME": group.name,
        "TEMPLATE": _sorted(group.template),
        "USERS": {"ID": list(members)} if members else {},
        "ADMINS": {},
    }
    return element("GROUP", content | (_QUOTAS | {"DEFAULT_GROUP_QUOTAS": _QUOTAS} if quotas else {}))


def host_xml(vms: Sequence[Vm], cores: int, memory: int) -> ET.Element:
    """Return the one host as one.host.info does: this machine, with `memory` in KiB."""
    number = len(vms)
    cpu = int(100 * sum(_number(vm.template.get("CPU")) for vm in vms))
    reserved = int(1024 * sum(_number(vm.template.get("MEMORY")) for vm in vms))
    share = {
        "MEM_USAGE": reserved, "CPU_USAGE": cpu, "TOTAL_MEM": memory, "TOTAL_CPU": cores * 100,
        "MAX_MEM": memory, "MAX_CPU": cores * 100, "RUNNING_VMS": number, "VMS_THREAD": 1,
        "DATASTORES": {"DISK_USAGE": 0, "FREE_DISK": 0, "MAX_DISK": 0, "USED_DISK": 0},
        "PCI_DEVICES": {}, "NUMA_NODES": {},
    }  # fmt: skip
    content = {
        "ID": 0, "NAME": "localhost", "STATE": 2, "PREV_STATE": 2, "IM_MAD": "oneflower", "VM_MAD": "oneflower",
        "CLUSTER_ID": 0, "CLUSTER": "default", "HOST_SHARE": share,
        "VMS": {"ID": [vm.id for vm in vms]} if vms else {},
        "TEMPLATE": {"HYPERVISOR": "oneflower", "RESERVED_CPU": "", "RESERVED_MEM": ""},
        "MONITORING": {"TIMESTAMP": 0, "CAPACITY": {"USED_CPU": cpu, "USED_MEMORY": reserved,
                       "FREE_CPU": max(0, cores * 100 - cpu), "FREE_MEMORY": max(0, memory - reserved)}},
    }  # fmt: skip
    return element("HOST", content)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def cluster_xml(datastores: Sequence[int], networks: Sequence[int]) -> ET.Element:
    """Return the one cluster as one.cluster.info does."""
    content = {
        "ID": 0,
        "NAME": "default",
        "HOSTS": {"ID": 0},
        "DATASTORES": {"ID": list(datastores)},
        "VNETS": {"ID": list(networks)},
        "TEMPLATE": {"RESERVED_CPU": "", "RESERVED_MEM": ""},
    }
    return element("CLUSTER", content)


def zone_xml(endpoint: str) -> ET.Element:
    """Return the one zone as one.zone.info does."""
    content = {"ID": 0, "NAME": "OpenNebula", "STATE": 0, "TEMPLATE": {"ENDPOINT": endpoint}, "SERVER_POOL": {}}
    return element("ZONE", content)


def rule_xml(number: int, rule: Rule) -> ET.Element:
    """Return an ACL rule as one.acl.info does."""
    content = {
        "ID": number,
        "USER": f"{rule.user:x}",
        "RESOURCE": f"{rule.resource:x}",
        "RIGHTS": f"{rule.rights:x}",
        "ZONE": f"{rule.zone:x}",
        "STRING": rule.text(),
    }
    return element("ACL", content)
