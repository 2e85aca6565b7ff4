"""The methods of the core's XML-RPC interface that the client needs.

The session, the first parameter of each call, is checked before. Most methods take parameters that are not used here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.catalogue import DATASTORES
from oneflower.local.oned.corexml import datastore_xml, image_xml, network_xml, text, user_xml, vm_template_xml, vm_xml
from oneflower.local.oned.vmtext import parse_template
from oneflower.opennebula.states import ImageState, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from xml.etree.ElementTree import Element

    from oneflower.local.oned.compute import Compute

    Method = Callable[..., Any]

VERSION = "7.4.0"
# Whose objects a pool call asks for, and in which state VMs must be.
_PRIMARY_GROUP, _ALL = -4, -2
_ANY_STATE, _NOT_DONE, _LAST_STATE = -2, -1, 11


def xmlrpc_methods(compute: Compute) -> Mapping[str, Method]:
    """Return every method that is implemented, by name."""
    parts = (SystemMethods, TemplateMethods, VmMethods, ImageMethods, NetworkMethods)
    return {name: method for part in parts for name, method in part(compute).table().items()}


class SystemMethods:
    """Methods about the cloud itself, its user and its datastores."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def version(self) -> str:
        """Return the version of OpenNebula that this cloud imitates."""
        return VERSION

    def user(self, *_: Any) -> str:
        """Return the one user."""
        return text(user_xml(self._compute.catalogue.user))

    def datastores(self, *_: Any) -> str:
        """Return the datastores."""
        return _pool("DATASTORE_POOL", [datastore_xml(number, name) for number, name in DATASTORES.items()])

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.system.version": self.version,
            "one.user.info": self.user,
            "one.datastorepool.info": self.datastores,
        }


class TemplateMethods:
    """Methods about VM templates."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._catalogue = compute.catalogue

    def allocate(self, content: str, *_: Any) -> int:
        """Store a VM template."""
        template = parse_template(content)
        known = {body.get("NAME"): number for number, body in self._catalogue.templates.items()}
        _check_name("one.template.allocate", "TEMPLATE", template, known)
        return self._catalogue.save_template(template)

    def update(self, number: int, content: str, append: int = 0) -> int:
        """Replace a VM template, or add to it; its name stays."""
        known = self._catalogue.template(number, "one.template.update")
        fresh = {key: value for key, value in parse_template(content).items() if key != "NAME"}
        self._catalogue.save_template({**(known if append else {"NAME": known.get("NAME", "")}), **fresh}, number)
        return number

    def rename(self, number: int, name: str) -> int:
        """Give a VM template another name."""
        self._catalogue.save_template({**self._catalogue.template(number, "one.template.rename"), "NAME": name}, number)
        return number

    def delete(self, number: int, *_: Any) -> int:
        """Remove a VM template."""
        self._catalogue.delete_template(number)
        return number

    def info(self, number: int, *_: Any) -> str:
        """Return a VM template."""
        return text(vm_template_xml(number, self._catalogue.template(number, "one.template.info")))

    def pool(self, *which: int) -> str:
        """Return VM templates."""
        templates = self._catalogue.templates
        chosen = _chosen(templates, *which[:3])
        return _pool("VMTEMPLATE_POOL", [vm_template_xml(number, templates[number]) for number in chosen])

    def clone(self, number: int, name: str, *_: Any) -> int:
        """Copy a VM template under another name."""
        return self._catalogue.save_template({**self._catalogue.template(number, "one.template.clone"), "NAME": name})

    def instantiate(self, number: int, name: str = "", hold: bool = False, extra: str = "", *_: Any) -> int:  # noqa: FBT001, FBT002
        """Create a VM from a template."""
        return self._compute.instantiate(number, name, extra, hold=hold).id

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.template.allocate": self.allocate,
            "one.template.update": self.update,
            "one.template.rename": self.rename,
            "one.template.delete": self.delete,
            "one.template.info": self.info,
            "one.template.clone": self.clone,
            "one.template.instantiate": self.instantiate,
            "one.templatepool.info": self.pool,
        }


class VmMethods:
    """Methods about VMs."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def info(self, number: int, *_: Any) -> str:
        """Return a VM."""
        return text(vm_xml(self._compute.find(number)))

    def pool(self, whose: int = _ALL, start: int = -1, end: int = -1, state: int = _NOT_DONE, query: str = "") -> str:
        """Return VMs in a state."""
        if query:
            raise CloudError(500, "JSON query search is not supported by the SQL backend")
        if not _ANY_STATE <= state <= _LAST_STATE:
            raise CloudError(400, f"Incorrect state filter {state}")
        numbers = self._compute.every_vm() if state in (_ANY_STATE, VmState.DONE) else list(self._compute.vms)
        vms = (self._compute.find(number) for number in numbers)
        wanted = {vm.id: vm for vm in vms if state < 0 or vm.state == state}
        return _pool("VM_POOL", [vm_xml(wanted[number]) for number in _chosen(wanted, whose, start, end)])

    def some(self, numbers: str, *_: Any) -> str:
        """Return the VMs with these ids that are not done."""
        wanted = [int(number) for number in numbers.split(",") if number.strip().isdigit()]
        known = self._compute.vms
        return _pool("VM_POOL", [vm_xml(known[number]) for number in wanted if number in known])

    def act(self, action: str, number: int) -> int:
        """Perform an action on a VM."""
        self._compute.act(self._compute.find(number), action)
        return number

    def recover(self, number: int, operation: int) -> int:
        """Recover a VM that is stuck."""
        self._compute.recover(self._compute.find(number), operation)
        return number

    def update(self, number: int, content: str, append: int = 0) -> int:
        """Change a VM's user template."""
        self._compute.update(self._compute.find(number), content, append=append == 1)
        return number

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.vm.info": self.info,
            "one.vm.action": self.act,
            "one.vm.recover": self.recover,
            "one.vm.update": self.update,
            "one.vmpool.info": self.pool,
            "one.vmpool.infoextended": self.pool,
            "one.vmpool.infoset": self.some,
        }


class ImageMethods:
    """Methods about images."""

    def __init__(self, compute: Compute) -> None:
        self._catalogue = compute.catalogue

    def allocate(self, content: str, datastore: int, *_: Any) -> int:
        """Store the description of an image."""
        template = parse_template(content)
        if datastore not in DATASTORES:
            raise CloudError(404, f"[one.image.allocate] Error getting datastore [{datastore}].")
        known = {image.name: image.id for image in self._catalogue.images.values()}
        _check_name("one.image.allocate", "IMAGE", template, known)
        path = str(template.get("PATH", ""))
        there = not path.startswith("/") or Path(path).is_file()
        if not there:
            template["ERROR"] = f"Error copying image in the datastore: {path} cannot be read"
        return self._catalogue.save_image(template, ImageState.READY if there else ImageState.ERROR)

    def info(self, number: int, *_: Any) -> str:
        """Return an image."""
        if number not in self._catalogue.images:
            raise CloudError(404, f"[one.image.info] Error getting image [{number}].")
        return text(image_xml(self._catalogue.images[number]))

    def pool(self, *which: int) -> str:
        """Return images."""
        images = self._catalogue.images
        return _pool("IMAGE_POOL", [image_xml(images[number]) for number in _chosen(images, *which[:3])])

    def delete(self, number: int, *_: Any) -> int:
        """Remove an image."""
        self._catalogue.delete_image(number)
        return number

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "one.image.allocate": self.allocate,
            "one.image.info": self.info,
            "one.image.delete": self.delete,
            "one.imagepool.info": self.pool,
        }


class NetworkMethods:
    """Methods about virtual networks."""

    def __init__(self, compute: Compute) -> None:
        self._catalogue = compute.catalogue

    def allocate(self, content: str, *_: Any) -> int:
        """Store a virtual network."""
        template = parse_template(content)
        known = {name: number for number, name in self._catalogue.networks.items()}
        _check_name("one.vn.allocate", "NET", template, known)
        return self._catalogue.add_network(str(template["NAME"]))

    def info(self, number: int, *_: Any) -> str:
        """Return a virtual network."""
        if number not in self._catalogue.networks:
            raise CloudError(404, f"[one.vn.info] Error getting virtual network [{number}].")
        return text(network_xml(number, self._catalogue.networks[number]))

    def pool(self, *which: int) -> str:
        """Return virtual networks."""
        networks = self._catalogue.networks
        return _pool("VNET_POOL", [network_xml(number, networks[number]) for number in _chosen(networks, *which[:3])])

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {"one.vn.allocate": self.allocate, "one.vn.info": self.info, "one.vnpool.info": self.pool}


def _pool(name: str, elements: Iterable[Element]) -> str:
    return f"<{name}>{''.join(map(text, elements))}</{name}>"


def _chosen(numbers: Iterable[int], whose: int = _ALL, start: int = -1, end: int = -1) -> list[int]:
    """Return which ids a pool call asks for, in order: those from `start` to `end`, or a page if `end` is negative.

    A page has `-end` objects and begins with the one numbered `start`. There is one user, 0, who owns everything.
    Source: PoolSharedAPI.cc, PoolSQL.cc. Raises `CloudError` 400.
    """
    if whose < _PRIMARY_GROUP:
        raise CloudError(400, "Incorrect filter_flag")
    found = sorted(numbers) if whose <= 0 else []
    if end < -1:
        first = max(start, 0)
        return found[first : first - end]
    if start != -1:
        found = [number for number in found if number >= start and (end == -1 or number <= end)]
    return found


def _check_name(call: str, what: str, template: Mapping[str, Any], known: Mapping[Any, int]) -> None:
    """Raise `CloudError` unless a new object has a name that no other has."""
    name = template.get("NAME")
    if not name:
        raise CloudError(500, f"[{call}] Cannot create {what.lower()} without a NAME.")
    if name in known:
        raise CloudError(500, f"[{call}] NAME is already taken by {what} {known[name]}.")
