"""The core's methods about the cloud itself: its version, zone, cluster, host, datastores and networks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.corexml import text
from oneflower.local.oned.models import Access
from oneflower.local.oned.ownership import SharedMethods, Shelf, changed, check_name
from oneflower.local.oned.pools import chosen, pool
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.sitexml import cluster_xml, config_xml, datastore_xml, host_xml, network_xml, zone_xml
from oneflower.local.oned.vmtext import parse_template

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Datastore, Network
    from oneflower.local.oned.ownership import Method

VERSION = "7.4.0"
_ONLY = 0  # the id of the one zone, the one cluster, the one host
_NOBODYS = Access(octet="000")  # visible only to administrators and to users with an ACL rule
_ENDPOINT = "http://localhost:2633/RPC2"  # what the zone of a new OpenNebula says


class SiteMethods:
    """Methods about the cloud, its zone, its cluster, its host and its datastores. There is one host: this machine."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue

    def version(self, _: Asking) -> str:
        """Return the version of OpenNebula that this cloud imitates."""
        return VERSION

    def config(self, _: Asking, *__: Any) -> str:
        """Return the settings that clients read."""
        return text(config_xml(self._compute.onegate))

    def zone(self, asking: Asking, number: int, *_: Any) -> str:
        """Return the one zone."""
        self._only(asking, Kind.ZONE, number)
        return text(zone_xml(_ENDPOINT))

    def zones(self, _: Asking, *__: Any) -> str:
        """Return all zones."""
        return pool("ZONE_POOL", [zone_xml(_ENDPOINT)])

    def cluster(self, asking: Asking, number: int, *_: Any) -> str:
        """Return the one cluster."""
        self._only(asking, Kind.CLUSTER, number)
        return text(self._cluster())

    def clusters(self, asking: Asking, *_: Any) -> str:
        """Return all clusters that the user may see."""
        return pool("CLUSTER_POOL", [self._cluster()] if self._sees(asking, Kind.CLUSTER) else [])

    def _cluster(self) -> Element:
        return cluster_xml(list(self._catalogue.datastores), list(self._catalogue.networks))

    def host(self, asking: Asking, number: int, *_: Any) -> str:
        """Return the one host."""
        self._only(asking, Kind.HOST, number)
        return text(self._host())

    def hosts(self, asking: Asking, *_: Any) -> str:
        """Return all hosts that the user may see."""
        return pool("HOST_POOL", [self._host()] if self._sees(asking, Kind.HOST) else [])

    def _host(self) -> Element:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
        there = [vm for vm in self._compute.vms.values() if vm.on_host]
        return host_xml(there, os.cpu_count() or 1, memory)

    def measured(self, asking: Asking, *_: Any) -> str:
        """Return the measurements of the hosts: there are none."""
        self._only(asking, Kind.HOST, _ONLY)
        return "<MONITORING_DATA></MONITORING_DATA>"

    def _only(self, asking: Asking, kind: Kind, number: int) -> None:
        if number != _ONLY:
            raise CloudError(404, f"[{asking.call}] Error getting {kind.label} [{number}].")
        self._catalogue.rights.need(asking, Want(Right.USE, kind, number, _NOBODYS))

    def _sees(self, asking: Asking, kind: Kind) -> bool:
        return asking.user.admin or self._catalogue.rights.sees(asking.user, kind, _ONLY, _NOBODYS)

    def datastore(self, asking: Asking, number: int, *_: Any) -> str:
        """Return a datastore."""
        found = self._find(number, asking.call)
        self._catalogue.rights.need(asking, Want(Right.USE, Kind.DATASTORE, number, found.access, past_lock=True))
        return text(self._datastore(found))

    def datastores(self, asking: Asking, *which: int) -> str:
        """Return the datastores."""
        found = chosen(self._catalogue.rights, asking, Kind.DATASTORE, self._catalogue.datastores, *which[:3])
        return pool("DATASTORE_POOL", map(self._datastore, found))

    def update_datastore(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a datastore's attributes, such as SAFE_DIRS."""
        found = self._find(number, asking.call)
        self._catalogue.rights.need(asking, Want(Right.MANAGE, Kind.DATASTORE, number, found.access))
        found.template = changed(asking, found.template, content, append)
        self._catalogue.keep(found)
        return number

    def _datastore(self, datastore: Datastore) -> Element:
        images = list(self._catalogue.images) if datastore.id == 1 else []
        return datastore_xml(datastore, images, self._catalogue.room())

    def _find(self, number: int, call: str) -> Datastore:
        if number not in self._catalogue.datastores:
            raise CloudError(404, f"[{call}] Error getting datastore [{number}].")
        return self._catalogue.datastores[number]

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        stores, keep = self._catalogue.datastores, self._catalogue.keep
        shelf = Shelf(Kind.DATASTORE, "one.datastore", self._find, stores.values, keep, lockable=False)
        return {
            **SharedMethods(self._catalogue, shelf, self._compute.clock.now).table(),
            "one.system.version": self.version,
            "one.system.config": self.config,
            "one.zone.info": self.zone,
            "one.zonepool.info": self.zones,
            "one.cluster.info": self.cluster,
            "one.clusterpool.info": self.clusters,
            "one.host.info": self.host,
            "one.host.monitoring": self.measured,
            "one.hostpool.info": self.hosts,
            "one.hostpool.monitoring": self.measured,
            "one.datastore.info": self.datastore,
            "one.datastore.update": self.update_datastore,
            "one.datastorepool.info": self.datastores,
        }


class NetworkMethods:
    """Methods about virtual networks."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue

    def allocate(self, asking: Asking, content: str, *_: Any) -> int:
        """Store a virtual network."""
        template = parse_template(content)
        self._catalogue.rights.need_create(asking, Kind.NET)
        access = self._catalogue.access_of(asking.user)
        check_name(asking.call, "NET", template.get("NAME"), access, self._catalogue.networks)
        return self._catalogue.add_network(str(template.pop("NAME")), template, access)

    def info(self, asking: Asking, number: int, *_: Any) -> str:
        """Return a virtual network."""
        return text(self._shown(self._may(asking, number, Right.USE, past_lock=True)))

    def _shown(self, network: Network) -> Element:
        return network_xml(network, self._compute.subnet)

    def pool(self, asking: Asking, *which: int) -> str:
        """Return virtual networks."""
        found = chosen(self._catalogue.rights, asking, Kind.NET, self._catalogue.networks, *which[:3])
        return pool("VNET_POOL", map(self._shown, found))

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a virtual network's attributes."""
        network = self._may(asking, number, Right.MANAGE)
        network.template = changed(asking, network.template, content, append)
        self._catalogue.keep(network)
        return number

    def delete(self, asking: Asking, number: int, *_: Any) -> int:
        """Remove a virtual network, except the loopback and one that a VM uses."""
        network = self._may(asking, number, Right.MANAGE)
        names = {str(number), network.name}
        for vm in self._compute.vms.values():
            nics = vm.template["NIC"] if isinstance(vm.template["NIC"], list) else [vm.template["NIC"]]
            if any({str(nic.get("NETWORK_ID")), str(nic.get("NETWORK"))} & names for nic in nics):
                raise CloudError(500, f"[{asking.call}] Can not remove a virtual network with leases in use")
        if number == _ONLY:
            raise CloudError(501, "The local cloud does not implement the removal of its loopback")
        self._catalogue.delete_network(number)
        return number

    def _find(self, number: int, call: str) -> Network:
        if number not in self._catalogue.networks:
            raise CloudError(404, f"[{call}] Error getting virtual network [{number}].")
        return self._catalogue.networks[number]

    def _may(self, asking: Asking, number: int, right: Right, *, past_lock: bool = False) -> Network:
        network = self._find(number, asking.call)
        self._catalogue.rights.need(asking, Want(right, Kind.NET, number, network.access, past_lock))
        return network

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        shelf = Shelf(Kind.NET, "one.vn", self._find, self._catalogue.networks.values, self._catalogue.keep)
        return {
            **SharedMethods(self._catalogue, shelf, self._compute.clock.now).table(),
            "one.vn.allocate": self.allocate,
            "one.vn.info": self.info,
            "one.vn.update": self.update,
            "one.vn.delete": self.delete,
            "one.vnpool.info": self.pool,
        }
