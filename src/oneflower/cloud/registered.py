"""Finds what is registered on a cloud, for those who deploy from it, and removes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from oneflower.cloud.audit import audited
from oneflower.cloud.document import bounds_of
from oneflower.cloud.image_source import owner_of
from oneflower.cloud.reconcile import Change
from oneflower.opennebula import COORDINATOR, NAME, NODES, Rendering, ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from oneflower.cloud.client import Cloud
    from oneflower_appliance.settings import Bounds

    _Removal = tuple[str, Callable[[], None]]  # what, and how


# Where the digests of what was registered are kept: in each service template its own, and in those of the three levels
# those of their VM templates, too, whose own attributes would be copied into every VM.
SECTION = "oneflower"


@dataclass(frozen=True)
class Document:
    """A service template as it is stored: its id, or None, its content, and the digests of what was registered last."""

    number: int | None
    content: dict[str, Any]
    base: dict[str, dict[str, str]]

    @classmethod
    def find(cls, cloud: Cloud, name: str) -> Document:
        """Return the service template `name` of the user or of oneadmin; without an id if there is none."""
        document = own_document(cloud, name)
        if document is None:
            return cls(None, {}, {})
        content = dict(document["TEMPLATE"]["BODY"])
        return cls(int(document["ID"]), content, content.pop(SECTION, {}))


def find_registered(cloud: Cloud, name: str = NAME) -> tuple[int, Bounds | None]:
    """Return the id of the service template that an operator registered, and its bounds. Raises `OneflowerError`.

    If it belongs to another user than oneadmin or the one who asks, that is told.
    """
    document = find_document(cloud, name)
    if document is None:
        raise OneflowerError(
            f"There is no service template called {name!r} on this OpenNebula, or none that you may use.",
            "An operator registers one: `oneflower --cloud opennebula register`.",
            ExitCode.NOT_FOUND,
        )
    if not cloud.core.is_ours(document["UID"]):
        cloud.tell(f"Note: the service template {name} belongs to {document['UNAME']}.")
    body = document["TEMPLATE"]["BODY"]
    if ServiceKind.of(body) is None:
        raise OneflowerError(
            f"The service template {name!r} is not one of oneflower's: it has no role {COORDINATOR} or {NODES}.",
            "Name another with --template, or register one: `oneflower --cloud opennebula register`.",
            ExitCode.CONFLICT,
        )
    return int(document["ID"]), bounds_of(body)


def template_names(name: str, kinds: Collection[ServiceKind] = tuple(ServiceKind)) -> list[str]:
    """Return the names of the service templates that `register` creates under `name`."""
    return [rendering.template_name(kind.template_name(name)) for kind in kinds for rendering in Rendering]


def unregister(
    cloud: Cloud, name: str = NAME, kinds: Collection[ServiceKind] = tuple(ServiceKind), *, dry_run: bool = False
) -> list[Change]:
    """Remove the templates and images that `register` created under `name`. Returns what was there.

    VM templates and images stay as long as service templates of kinds that are not among `kinds` use them.
    An image stays as long as machines boot from it: OpenNebula does not remove it before. Unless it is a `dry_run`, it
    is recorded in the operator's audit log. Raises `OneflowerError`.
    """
    if dry_run:
        return _listed(*_doomed(cloud, name, kinds))
    with audited(cloud, "unregister", "", template=name) as said:
        doomed, used = _doomed(cloud, name, kinds)
        for _, remove in doomed:
            remove()
        said["changes"] = str(len(doomed))
    return _listed(doomed, used)


def _listed(doomed: list[_Removal], used: list[Change]) -> list[Change]:
    return [Change("remove", what) for what, _ in doomed] + used


def _doomed(cloud: Cloud, name: str, kinds: Collection[ServiceKind]) -> tuple[list[_Removal], list[Change]]:
    """Return what to remove, and the images that stay because machines boot from them."""
    doomed: list[_Removal] = []
    for known in template_names(name, kinds):
        if (document := own_document(cloud, known)) is not None:
            number = int(document["ID"])
            doomed.append((f"service template {known}", partial(cloud.oneflow.delete_service_template, number)))
    others = set(template_names(name)) - set(template_names(name, kinds))
    shared = any(own_document(cloud, known) is not None for known in others)
    for known, number in cloud.core.vm_templates().items() if not shared else ():
        if any(known in (f"{name}-{role}", f"{name}-{role}-{number}") for role in (COORDINATOR, NODES)):
            doomed.append((f"VM template {known}", partial(cloud.core.delete_vm_template, number)))
    images = [
        image
        for image in (cloud.core.every_image() if not shared else ())
        if owner_of(image.attributes) == name and cloud.core.is_ours(image.owner)
    ]
    used = [Change("used", f"image {each.name}", before=each.users) for each in images if each.machines]
    doomed += [
        (f"image {each.name}", partial(cloud.core.delete_image, each.id)) for each in images if not each.machines
    ]
    return doomed, used


def own_document(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """Return the document of the service template `name` that is the user's or oneadmin's, or None."""
    return next((each for each in _documents(cloud, name) if cloud.core.is_ours(each["UID"])), None)


def find_document(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """Return the document of the service template `name`, or None if there is none.

    Names are unique for an owner only. What is the user's or oneadmin's counts before what others share. Raises
    `OneflowerError` if several others share one of that name: any of them could be there to be taken for another.
    """
    found = _documents(cloud, name)
    if (own := next((each for each in found if cloud.core.is_ours(each["UID"])), None)) is not None:
        return own
    if len(found) > 1:
        owners = ", ".join(sorted(each["UNAME"] for each in found))
        raise OneflowerError(
            f"There are {len(found)} service templates called {name!r}, of {owners}.",
            "Ask the operator which one is right, and that the others are no longer shared with you.",
            ExitCode.CONFLICT,
        )
    return found[0] if found else None


def _documents(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    return [document for document in cloud.oneflow.service_templates() if document["NAME"] == name]
