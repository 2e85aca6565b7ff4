"""The two entries of the catalogue: the image with the machine that boots it, and the service with the form.

Both roles of the service name the same app. What differs between them is in the CONTEXT of the role. When the service
is imported, OpenNebula puts the id of the app's VM template into each role as `vm_template`. OneFlow 7 takes the
template for one of OpenNebula 6 and converts it; parts with the names of 7 stay as they are.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.opennebula import COORDINATOR, NODES, Carried, Rendering, ServiceOptions, service_template
from oneflower.opennebula.service import infrastructure
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from oneflower.images.app_image import AppImage

LOGO = "oneflower.png"
_OPENNEBULA = "7.0, 7.2, 7.4"
_NAMESPACE = uuid.UUID("2c9f4a52-6a38-5d0e-8a53-7d2f6c4f1b90")
_NETWORK = "Federation"
_LABELS = {
    "none": "no framework",
    "edge": "edge",
    **{name: framework.title for name, framework in FRAMEWORKS.items()},
    "llm": "language models",
}


@dataclass(frozen=True)
class Publisher:
    """The publisher, and the URL of the image's file."""

    url: str
    name: str = "oneflower"
    email: str = ""


def _label(image: AppImage) -> str:
    return _LABELS.get(image.variant, image.variant)


def identifier(image: AppImage, what: str) -> uuid.UUID:
    """Return the UUID of an entry. It stays the same for a variant, so that a newer image updates the older one."""
    return uuid.uuid5(_NAMESPACE, f"{image.variant} {what}")


def app_name(image: AppImage) -> str:
    """Return the name of the image's app. The service refers to it by this name."""
    return f"Flower Node ({_label(image)})"


def image_entry(image: AppImage, publisher: Publisher) -> dict[str, Any]:
    """Return the entry of the image, with the VM template that OpenNebula makes for it."""
    context = {name.lower(): value for name, value in infrastructure(COORDINATOR).items()}
    return {
        "name": app_name(image),
        **_about(image, publisher),
        "description": (
            "A machine of a [Flower](https://flower.ai) federation: the SuperLink, which coordinates, or a SuperNode,\n"
            "which trains on data that never leave it.\n\n"
            f"* Flower {image.flower}, {_label(image)}, Debian 12\n"
            "* TLS and keys of its own, made at the first boot; only SSH keys log in\n"
            "* READY is reported when Flower answers, and at no other time\n\n"
            f'Deploy it with the service "{service_name(image)}". Alone it is a SuperLink (`ONEFLOWER_ROLE`).'
        ),
        "short_description": f"A machine of a Flower federation, with {_label(image)}",
        "format": "qcow2",
        **_common(image),
        "opennebula_template": {
            "context": context | {"set_hostname": "$NAME"},
            "cpu": str(image.needs.cpu),
            "vcpu": str(image.needs.cpu),
            "memory": str(image.needs.memory),
            "cpu_model": {"model": "host-passthrough"},
            "graphics": {"listen": "0.0.0.0", "type": "vnc"},  # noqa: S104 - on the host, as every app has it
            "nic_default": {"model": "virtio"},
            "os": {"arch": "x86_64"},
            "logo": f"images/logos/{LOGO}",
        },
        "logo": LOGO,
        "images": [
            {
                "name": image.name,
                "url": publisher.url,
                "type": "OS",
                "dev_prefix": "vd",
                "driver": "qcow2",
                "size": image.size,
                "checksum": {"md5": image.md5, "sha256": image.sha256},
            }
        ],
    }


def service_name(image: AppImage) -> str:
    """Return the name of the service."""
    return f"Flower Federation ({_label(image)})"


def service_entry(image: AppImage, publisher: Publisher) -> dict[str, Any]:
    """Return the entry of the service: the form, in which tenants also choose the network."""
    return {
        "name": service_name(image),
        **_about(image, publisher),
        "description": (
            "Federated learning with [Flower](https://flower.ai): one SuperLink and any number of SuperNodes, which\n"
            "train a model together and keep their data. Choose a use case in the form, and it trains by itself.\n\n"
            "Requires OneFlow and OneGate.\n\n"
            f"Based on [{app_name(image)}](/appliance/{identifier(image, 'image')})."
        ),
        "short_description": "Federated learning with Flower: a form, and a trained model",
        **_common(image),
        "type": "SERVICE_TEMPLATE",
        "roles": {COORDINATOR: app_name(image), NODES: app_name(image)},
        "opennebula_template": _service(image),
        "logo": LOGO,
        "images": [],
    }


def _service(image: AppImage) -> dict[str, Any]:
    carried = Carried(image.flower, image.framework)
    body = service_template(ServiceOptions(name=service_name(image), rendering=Rendering.FORM, carried=carried))
    for role in body["roles"]:
        del role["template_id"], role["type"]  # which the import fills in
        role["template_contents"]["NIC"] = [{"NAME": "NIC0", "NETWORK_ID": f"${_NETWORK}"}]
    return body | {"networks": {_NETWORK: "M|network|Network of the federation||id:"}}


def _about(image: AppImage, publisher: Publisher) -> dict[str, Any]:
    about = {"version": image.version, "publisher": publisher.name}
    return about | ({"publisher_email": publisher.email} if publisher.email else {})


def _common(image: AppImage) -> dict[str, Any]:
    return {
        "tags": ["flower", "federated-learning", "machine-learning", image.framework, "debian"],
        "creation_time": image.created,
        "os-id": "Debian",
        "os-release": "12",
        "os-arch": "x86_64",
        "hypervisor": "KVM",
        "opennebula_version": _OPENNEBULA,
    }
