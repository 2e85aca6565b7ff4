"""Networks, datastores, and the one host, cluster and zone as the core's XML, with the parts that clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.oned.corexml import ENCRYPTED, by_name, element, head

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Sequence

    from oneflower.local.oned.catalogue import Room
    from oneflower.local.oned.models import Datastore, Network, Vm
    from oneflower.local.oned.vms import Subnet

_ADDRESSES = 65_000  # of a network: more than there will ever be machines


def config_xml(onegate: str) -> ET.Element:
    """Return the settings of the core as one.system.config does, with those that clients need."""
    return element(
        "OPENNEBULA_CONFIGURATION",
        {
            "ONEGATE_ENDPOINT": onegate,
            "VM_ENCRYPTED_ATTR": [f"CONTEXT/{name}" for name in ENCRYPTED],
        },
    )


def network_xml(network: Network, subnet: Subnet) -> ET.Element:
    """Return a virtual network as one.vn.info does, with what clients need. Every machine finds an address in it."""
    addresses = {
        "AR_ID": 0, "IP": subnet.network, "MAC": "02:00:00:00:00:00", "NEXT_INDEX": 0, "SIZE": _ADDRESSES,
        "TYPE": "IP4",
    }  # fmt: skip
    content = {
        **head(network.id, network.name, network.access),
        "CLUSTERS": {"ID": 0},
        "BRIDGE": "lo",
        "BRIDGE_TYPE": "linux",
        "STATE": 1,
        "PREV_STATE": 1,
        "PARENT_NETWORK_ID": "",
        "TEMPLATE_ID": "",
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
        "TEMPLATE": by_name(network.template),
        "AR_POOL": {"AR": addresses},
    }
    return element("VNET", content)


def datastore_xml(datastore: Datastore, images: Sequence[int], room: Room) -> ET.Element:
    """Return a datastore as one.datastore.info does, with what clients need."""
    total, free = room.total >> 20, room.free >> 20
    content = {
        **head(datastore.id, datastore.name, datastore.access),
        "DS_MAD": "fs",
        "TM_MAD": "oneflower",
        "BASE_PATH": "",
        "TYPE": int(datastore.type),
        "DISK_TYPE": 0,
        "STATE": 0,
        "CLUSTERS": {"ID": 0},
        "TOTAL_MB": total,
        "FREE_MB": free,
        "USED_MB": total - free,
        "IMAGES": {"ID": list(images)} if images else {},
        "TEMPLATE": by_name({"DS_MAD": "fs", "TM_MAD": "oneflower"} | datastore.template),
    }
    return element("DATASTORE", content)


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
        "MONITORING": {"TIMESTAMP": 0, "CAPACITY": {
            "FREE_CPU": max(0, cores * 100 - cpu), "FREE_MEMORY": max(0, memory - reserved),
            "USED_CPU": cpu, "USED_MEMORY": reserved,
        }},
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
