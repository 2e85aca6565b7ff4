"""Lets a group use what is registered: both service templates, the VM templates, and the images that they boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.cloud.machine import disks
from oneflower.cloud.reconcile import Change
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from xml.etree.ElementTree import Element

    from oneflower.cloud.client import Cloud

_LEAVE = -1
_GROUP_MAY_USE = (_LEAVE, _LEAVE, _LEAVE, 1, _LEAVE, _LEAVE, _LEAVE, _LEAVE, _LEAVE)
_FOR_GROUP = "640"  # of a document: its owner uses and manages it, its group uses it


def group_id(cloud: Cloud, name: str) -> int:
    """Return the id of a group. Raises `OneflowerError` if there is none, or none that the user sees."""
    groups = cloud.core.read("one.grouppool.info").findall("GROUP")
    known = {(each.findtext("NAME") or ""): int(each.findtext("ID") or -1) for each in groups}
    if name not in known:
        raise OneflowerError(
            f"There is no group called {name!r}, or none that you see.",
            f"There are: {', '.join(sorted(known)) or 'none'}. `onegroup create` makes one.",
            ExitCode.NOT_FOUND,
        )
    return known[name]


def share(
    cloud: Cloud, group: str, documents: Mapping[str, int], vm_templates: Mapping[str, int], *, dry_run: bool
) -> Iterator[Change]:
    """Let a group use service templates and VM templates, given by name and id, and the images of the latter.

    With `dry_run` nothing is changed; the id of what would have been created is negative.
    """
    number = group_id(cloud, group)
    new = [f"VM template {name}" for name, each in vm_templates.items() if each < 0]
    new += [f"service template {name}" for name, each in documents.items() if each < 0]
    there = {name: each for name, each in vm_templates.items() if each >= 0}
    shared = [
        *new,
        *(f"VM template {n}" for n, i in there.items() if _share(cloud, "one.template", i, number, dry_run=dry_run)),
        *(f"image {n}" for n, i in _images(cloud, there) if _share(cloud, "one.image", i, number, dry_run=dry_run)),
        *(f"service template {n}" for n in _share_documents(cloud, documents, number, dry_run=dry_run)),
    ]
    for what in shared:
        yield Change("share", what, after=group)


def _images(cloud: Cloud, vm_templates: Mapping[str, int]) -> set[tuple[str, int]]:
    """Return the images of VM templates, by name and id."""
    contents = [cloud.core.vm_template(number) or {} for number in vm_templates.values()]
    numbers = {disk.get("IMAGE_ID", "") for content in contents for disk in disks(content)}
    found = [cloud.core.find_image(int(number)) for number in sorted(numbers) if number.isdigit()]
    return {(image.name, image.id) for image in found if image is not None}


def _share_documents(cloud: Cloud, documents: Mapping[str, int], group: int, *, dry_run: bool) -> Iterator[str]:
    """Let a group use service templates, and yield the names of those that it could not use before."""
    for document in cloud.oneflow.service_templates():
        name, number = document["NAME"], int(document["ID"])
        usable = (document["GID"], document["PERMISSIONS"]["GROUP_U"]) == (str(group), "1")
        if documents.get(name) == number and not usable:
            if not dry_run:
                cloud.oneflow.share_service_template(number, group, _FOR_GROUP)
            yield name


def _share(cloud: Cloud, kind: str, number: int, group: int, *, dry_run: bool) -> bool:
    """Let a group use an object of the core. Returns whether it could not before."""
    found: Element = cloud.core.read(f"{kind}.info", number)
    if (found.findtext("GID"), found.findtext("PERMISSIONS/GROUP_U")) == (str(group), "1"):
        return False
    if not dry_run:
        cloud.core.call(f"{kind}.chown", number, _LEAVE, group)
        cloud.core.call(f"{kind}.chmod", number, *_GROUP_MAY_USE)
    return True
