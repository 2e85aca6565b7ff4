"""The core's objects as the core's XML, with the parts that clients and OneFlow read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from oneflower.local.oned.models import permission_bits
from oneflower.opennebula.states import ImageState
from oneflower.opennebula.tokens import encrypt
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oneflower.local.oned.models import Access, Image, Vm, VmTemplate

# Which entries of CONTEXT are encrypted (VM_ENCRYPTED_ATTR): a new OpenNebula's, and what operators should add for us.
ENCRYPTED = ("PASSWORD", *(parameter.name for parameter in PARAMETERS.values() if parameter.secret))
_KEY = token_hex(16)  # nobody needs it: what is shown encrypted is never read back
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


def by_name(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template with its attributes in the order in which the core shows them."""
    return {key: by_name(value) if isinstance(value, dict) else value for key, value in sorted(template.items())}


def vm_data(vm: Vm, *, decrypted: bool = False) -> dict[str, Any]:
    """Return a VM as one.vm.info and OneGate's extended service show it. Every value is text."""
    template = vm.template if decrypted else _encrypted(vm.template)
    actions = {"SCHED_ACTION": vm.sched_actions} if vm.sched_actions else {}
    record = {
        "OID": str(vm.id),
        "SEQ": "0",
        "HOSTNAME": "localhost",
        "HID": "0",
        "CID": "0",
        "STIME": str(vm.stime),
        "ETIME": str(vm.etime),
        "RSTIME": str(vm.rstime),
        "VM_MAD": "oneflower",
        "TM_MAD": "oneflower",
        "DS_ID": "0",
        "PLAN_ID": "-1",
        "ACTION_ID": "-1",
        **dict.fromkeys(("PSTIME", "PETIME", "RETIME", "ESTIME", "EETIME", "ACTION"), "0"),
        "UID": str(vm.access.uid),
        "GID": str(vm.access.gid),
        "REQUEST_ID": "-1",
    }
    user = by_name(vm.user_template | ({"ERROR": vm.error} if vm.error else {}))
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
        "TEMPLATE": by_name(template | actions),
        "USER_TEMPLATE": user,
        "HISTORY_RECORDS": {} if int(vm.state) <= 2 else {"HISTORY": record},
        "BACKUPS": {"BACKUP_CONFIG": {}, "BACKUP_IDS": {}},
    }


def _encrypted(template: dict[str, Any]) -> dict[str, Any]:
    """Return a VM's template as the core stores and shows it: with some entries of CONTEXT encrypted."""
    context = template.get("CONTEXT", {})
    hidden = {name: encrypt(_KEY, context[name]) for name in ENCRYPTED if context.get(name)}
    return template | {"CONTEXT": context | hidden} if hidden else template


def vm_xml(vm: Vm, *, decrypted: bool = False) -> ET.Element:
    """Return a VM as one.vm.info does."""
    return element("VM", vm_data(vm, decrypted=decrypted))


# What a pool shows of a VM, besides who owns it. Source: to_xml_short of VirtualMachine.cc.
_SHORT = ("LAST_POLL", "STATE", "LCM_STATE", "RESCHED", "STIME", "ETIME", "DEPLOY_ID", "LOCK")
_SHORT_OF_TEMPLATE = ("CPU", "MEMORY", "VCPU", "DISK", "NIC", "GRAPHICS")
_SHORT_OF_USER_TEMPLATE = ("LABELS", "ERROR", "SCHED_MESSAGE")
_SHORT_OF_HISTORY = ("OID", "SEQ", "HOSTNAME", "HID", "CID", "DS_ID", "VM_MAD", "TM_MAD", "ACTION")


def short_vm_xml(vm: Vm) -> ET.Element:
    """Return a VM as one.vmpool.info does, which leaves out most of it."""
    full = vm_data(vm)
    history = full["HISTORY_RECORDS"]
    content = vm.owner() | _part(full, _SHORT)
    content["TEMPLATE"] = _part(full["TEMPLATE"], _SHORT_OF_TEMPLATE)
    content["USER_TEMPLATE"] = _part(full["USER_TEMPLATE"], _SHORT_OF_USER_TEMPLATE)
    content["HISTORY_RECORDS"] = {"HISTORY": _part(history["HISTORY"], _SHORT_OF_HISTORY)} if history else {}
    return element("VM", content)


def _part(whole: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: whole[name] for name in names if name in whole}


def find(vm: Vm, path: Sequence[str]) -> str | None:
    """Return the text of all elements at the end of `path`, which begins anywhere in a VM; None if there are none."""
    try:
        found = vm_xml(vm).findall(".//" + "/".join(path))
    except SyntaxError:
        return None
    return "".join("".join(node.itertext()) for node in found) if found else None


def head(number: int, name: str, access: Access) -> dict[str, Any]:
    """Return the elements with which everything begins that has an owner."""
    permissions = permission_bits(access.octet)
    return {"ID": number, **access.owner(), "NAME": name, **access.locked(), "PERMISSIONS": permissions}


def vm_template_xml(template: VmTemplate) -> ET.Element:
    """Return a VM template as one.template.info does."""
    rest = {"REGTIME": template.regtime, "TEMPLATE": by_name(template.body)}
    return element("VMTEMPLATE", head(template.id, template.name, template.access) | rest)


def image_xml(image: Image, users: Sequence[int]) -> ET.Element:
    """Return an image as one.image.info does; `users` are the machines that it is a disk of."""
    state = ImageState.USED if users and image.state == ImageState.READY else image.state
    rest = {key: value for key, value in image.template.items() if key not in ("NAME", "PATH", "SIZE")}
    content = {
        **head(image.id, image.name, image.access),
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
        "STATE": int(state),
        "PREV_STATE": int(state),
        "RUNNING_VMS": len(users),
        "CLONING_OPS": 0,
        "CLONING_ID": -1,
        "TARGET_SNAPSHOT": -1,
        "DATASTORE_ID": 1,
        "DATASTORE": "default",
        "VMS": {"ID": list(users)} if users else {},
        "CLONES": {},
        "APP_CLONES": {},
        "TEMPLATE": by_name(rest),
        "SNAPSHOTS": {"ALLOW_ORPHANS": "NO", "CURRENT_BASE": "-1", "NEXT_SNAPSHOT": "0"},
        "BACKUP_INCREMENTS": {},
        "BACKUP_DISK_IDS": {},
    }
    return element("IMAGE", content)
