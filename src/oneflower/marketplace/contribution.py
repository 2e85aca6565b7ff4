"""The files of a contribution to the community's marketplace, and of a private marketplace.

A contribution has the layout of OpenNebula/marketplace-community, so it can be copied over a checkout of that.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.images.overlay import OVERLAY
from oneflower.marketplace.catalogue import (
    LOGO,
    app_name,
    identifier,
    image_entry,
    service_entry,
    service_name,
)
from oneflower.marketplace.wheel import appliance_wheel
from oneflower.opennebula.service import READY_SCRIPT
from oneflower.runtimes.runtime import pinned_list
from oneflower.yaml_text import to_yaml
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.parameters import form_fields
from oneflower_appliance.roles import COORDINATOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.images.app_image import AppImage
    from oneflower.marketplace.catalogue import Publisher

_FILES = Path(__file__).parent / "files"
_OVERLAY = (
    "usr/lib/systemd/system/oneflower-agent.service",
    "usr/lib/systemd/system/oneflower-host-keys.service",
    "usr/lib/systemd/system/oneflower-online.service",
    "usr/lib/sysctl.d/60-oneflower.conf",
    "usr/lib/oneflower/ready",
)
_MAKEFILE = Path("apps-code/community-apps/Makefile.config")
_DISK = 10240  # megabytes, the least for the image that packer makes


@dataclass(frozen=True)
class Written:
    """What was written: the contribution's app, its files, and whether its name is in Makefile.config."""

    app: str
    files: tuple[Path, ...]
    in_makefile: bool


def render(image: AppImage, publisher: Publisher, folder: Path) -> Written:
    """Write the contribution for an image into a folder, which may be a checkout of the marketplace.

    Raises `OneflowerError`, and writes nothing, if there is no pinned list of packages for the image, or if it has
    NVIDIA's driver: the marketplace builds its images itself, and the files of a contribution build none with that.
    """
    if image.driver:
        raise OneflowerError(
            f"{image.name} has NVIDIA's driver, which a contribution to the community's marketplace cannot build.",
            "Publish it in a private marketplace: --private.",
        )
    app = f"oneflower-{image.variant}"
    content = _contribution(app, image, publisher)
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text, SHARED)
        if name.endswith(".sh") or path.name == "gen_context":
            path.chmod(0o755)
    link = folder / f"apps-code/community-apps/packer/{app}/common.pkr.hcl"
    _point(link, "../../../one-apps/packer/common.pkr.hcl")
    files = (*(folder / name for name in content), link)
    return Written(app, files, in_makefile=_add_to_makefile(folder / _MAKEFILE, app))


def _contribution(app: str, image: AppImage, publisher: Publisher) -> dict[str, str | bytes]:
    here, packer = f"appliances/{app}", f"apps-code/community-apps/packer/{app}"
    wheel, content = appliance_wheel()
    known = _known(app, image, wheel)
    return {
        f"{here}/{identifier(image, 'image')}.yaml": to_yaml(image_entry(image, publisher)),
        f"{here}/{identifier(image, 'service')}.yaml": to_yaml(service_entry(image, publisher)),
        f"{here}/metadata.yaml": to_yaml(_metadata(app, image)),
        f"{here}/tests.yaml": f'---\n- "00-{app}_basic.rb"\n',
        f"{here}/context.yaml": to_yaml(_context(app)),
        f"{here}/tests/00-{app}_basic.rb": _filled("tests/basic.rb", known),
        f"{here}/appliance.sh": _filled("appliance.sh", known),
        f"{here}/requirements.txt": _pinned(image),
        f"{here}/appliance.txt": _appliance(wheel, content),
        f"{here}/{wheel}": content,
        **{f"{here}/{name}": text for name, text in _overlay().items()},
        f"{here}/README.md": _filled("README.md", known),
        f"{here}/CHANGELOG.md": _filled("CHANGELOG.md", known),
        f"{packer}/{app}.pkr.hcl": _filled("packer/app.pkr.hcl", known),
        f"{packer}/variables.pkr.hcl": _filled("packer/variables.pkr.hcl", known),
        f"{packer}/gen_context": _filled("packer/gen_context", known),
        f"{packer}/81-configure-ssh.sh": _filled("packer/81-configure-ssh.sh", known),
        f"{packer}/82-configure-context.sh": _filled("packer/82-configure-context.sh", known),
        f"logos/{LOGO}": (_FILES / LOGO).read_bytes(),
    }


def render_private(image: AppImage, folder: Path) -> Path:
    """Write the script that publishes an image and the form in a private marketplace, and return its path."""
    path = folder / "publish.sh"
    folder.mkdir(parents=True, exist_ok=True)
    known = {"NAME": image.name, "FILE": image.file, "SHA256": image.sha256}
    write_atomic(path, _filled("publish.sh", known), SHARED)
    path.chmod(0o755)
    return path


def _known(app: str, image: AppImage, wheel: str) -> dict[str, str]:
    """Return the replacements for the words @LIKE_THIS@ in the files."""
    fields = form_fields()
    params = [f"    '{f.input}' 'configure' {_quoted(f.label or p.meaning)} {_quoted(p.default)}" for f, p in fields]
    rows = [f"| `{f.input}` | {p.default} | {f.label or p.meaning} |" for f, p in fields]
    day = datetime.datetime.fromtimestamp(image.created, datetime.UTC)
    return {
        "APP": app,
        "BUILD": str(image.created),
        "CPU": str(image.needs.cpu),
        "DAY": f"{day:%Y-%m-%d}",
        "DISK": str(max(image.size >> 20, _DISK)),
        "FLOWER": image.flower,
        "FRAMEWORK": image.framework,
        "IMAGE": app_name(image),
        "IMAGE_ID": str(identifier(image, "image")),
        "MEMORY": str(image.needs.memory),
        "OVERLAY": "\n".join(f'      "../../appliances/{app}/{name}",' for name in _overlay()),
        "ONEFLOWER": image.oneflower,
        "PARAMS": "\n".join(params),
        "SERVICE": service_name(image),
        "SERVICE_ID": str(identifier(image, "service")),
        "TABLE": "\n".join(row.replace("|  |", "| |") for row in rows),
        "VERSION": image.version,
        "WHEEL": wheel,
    }


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(name: str, known: Mapping[str, str]) -> str:
    text = (_FILES / name).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: known[match[1]], text)


def _metadata(app: str, image: AppImage) -> dict[str, Any]:
    """Return the settings of the marketplace's tests: they boot one machine with these entries in its context."""
    template = {
        "NAME": "base",
        "TEMPLATE": {
            "ARCH": "x86_64",
            "CONTEXT": {"NETWORK": "YES", "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]"},
            "CPU": str(image.needs.cpu),
            "CPU_MODEL": {"MODEL": "host-passthrough"},
            "GRAPHICS": {"LISTEN": "0.0.0.0", "TYPE": "vnc"},  # noqa: S104 - on the host that tests it
            "MEMORY": str(image.needs.memory),
            "NIC": {"NETWORK": "service"},
            "NIC_DEFAULT": {"MODEL": "virtio"},
        },
    }
    params = {
        ":ONEFLOWER_ROLE": COORDINATOR,
        ":TOKEN": "YES",
        ":REPORT_READY": "YES",
        ":READY_SCRIPT_PATH": READY_SCRIPT,
    }
    return {
        ":app": {
            ":name": app,
            ":type": "service",
            ":os": {":type": "linux", ":base": "debian12"},
            ":hypervisor": "KVM",
            ":context": {":prefixed": False, ":params": params},
        },
        ":one": {":template": template, ":datastore_name": "default", ":timeout": "90"},
        ":infra": {":disk_format": "qcow2", ":apps_path": "/var/tmp"},  # noqa: S108 - where one-apps exports to
    }


def _context(app: str) -> dict[str, Any]:
    tested = {
        ":image_name": f"{app}.qcow2",
        ":type": "linux",
        ":microenvs": ["context-kvm"],
        ":slow": True,
        ":enable_netcfg_common": True,
        ":enable_netcfg_ip_methods": True,
    }
    return {":tests": {app: tested}}


def _overlay() -> dict[str, str]:
    """Return the units and other files to install: those of our own images, except where one-context differs."""
    files = [*(OVERLAY / name for name in _OVERLAY), _FILES / "oneflower-context.service"]
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def _appliance(wheel: str, content: bytes) -> str:
    name, version, *_ = wheel.split("-")
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


def _pinned(image: AppImage) -> str:
    path = pinned_list(image.flower, image.framework)
    if not path.is_file():
        raise OneflowerError(
            f"There is no pinned list of packages for Flower {image.flower} with {image.framework}.",
            "A contribution installs by hash only. `make lock` makes the lists.",
            ExitCode.NOT_FOUND,
        )
    return path.read_text(encoding="utf-8")


def _point(link: Path, target: str) -> None:
    """Make a symbolic link, and replace what is there."""
    with tempfile.TemporaryDirectory(dir=link.parent) as folder:
        fresh = Path(folder) / link.name
        fresh.symlink_to(target)
        fresh.replace(link)


def _add_to_makefile(makefile: Path, app: str) -> bool:
    """Add an app to those that a checkout of the marketplace builds, if this is one; return whether it is listed."""
    try:
        text = makefile.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    line = re.search(r"^SERVICES\s*:=(.*)$", text, re.MULTILINE)
    if line is None:
        return False
    if app not in line[1].split():
        write_atomic(makefile, f"{text[: line.end()].rstrip()} {app}{text[line.end() :]}", SHARED)
    return True
