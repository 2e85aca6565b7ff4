"""VMs, VM templates, images and networks as the core's XML, with the parts that clients and OneFlow read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from oneflower.local.oned.models import OWNER, PRIVATE, permission_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oneflower.local.oned.models import Image, Vm

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
        "PERMISSIONS": permission_bits(PRIVATE),
        "LAST_POLL": "0",
        "STATE": str(int(vm.state)),
        "LCM_STATE": str(int(vm.lcm_state)),
        "PREV_STATE": str(int(vm.state)),
        "PREV_LCM_STATE": str(int(vm.lcm_state)),
        "RESCHED": "0",
        "STIME": str(vm.stime),
        "ETIME": str(vm.etime),
        "DEPLOY_ID": f"{vm.pid}" if vm.pid else "",
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


def vm_template_xml(number: int, body: Mapping[str, Any]) -> ET.Element:
    """Return a VM template as one.template.info does."""
    rest = {key: value for key, value in body.items() if key != "NAME"}
    bits = permission_bits(PRIVATE)
    content = {
        "ID": number,
        **OWNER,
        "NAME": body.get("NAME", ""),
        "PERMISSIONS": bits,
        "REGTIME": "0",
        "TEMPLATE": _sorted(rest),
    }
    return element("VMTEMPLATE", content)


def image_xml(image: Image) -> ET.Element:
    """Return an image as one.image.info does."""
    rest = {key: value for key, value in image.template.items() if key not in ("NAME", "PATH")}
    content = {
        "ID": image.id,
        **OWNER,
        "NAME": image.name,
        "PERMISSIONS": permission_bits(PRIVATE),
        "TYPE": 0,
        "DISK_TYPE": 0,
        "PERSISTENT": 0,
        "REGTIME": image.regtime,
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


def network_xml(number: int, name: str) -> ET.Element:
    """Return a virtual network as one.vn.info does, with what clients need."""
    content = {
        "ID": number,
        **OWNER,
        "NAME": name,
        "PERMISSIONS": permission_bits(PRIVATE),
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
        "TEMPLATE": {},
        "AR_POOL": {},
    }
    return element("VNET", content)


def datastore_xml(number: int, name: str) -> ET.Element:
    """Return a datastore as one.datastore.info does, with what clients need."""
    content = {
        "ID": number,
        **OWNER,
        "NAME": name,
        "PERMISSIONS": permission_bits(PRIVATE),
        "DS_MAD": "fs",
        "TM_MAD": "oneflower",
        "BASE_PATH": "",
        "TYPE": {0: 1, 1: 0, 2: 2}.get(number, 0),
        "DISK_TYPE": 0,
        "STATE": 0,
        "CLUSTERS": {"ID": 0},
        "TOTAL_MB": 0,
        "FREE_MB": 0,
        "USED_MB": 0,
        "IMAGES": {},
        "TEMPLATE": {},
    }
    return element("DATASTORE", content)


def user_xml(template: Mapping[str, str]) -> ET.Element:
    """Return the one user as one.user.info does. pyone reads it without the rest of the schema."""
    content = {
        "ID": 0,
        "GID": 0,
        "GROUPS": {"ID": 0},
        "GNAME": "oneadmin",
        "NAME": "oneadmin",
        "PASSWORD": "",
        "AUTH_DRIVER": "core",
        "ENABLED": 1,
        "TEMPLATE": dict(template),
    }
    return element("USER", content)
