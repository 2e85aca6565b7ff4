"""The list of everything in an image, as CycloneDX: Debian packages, wheels, and the appliance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from typing import TYPE_CHECKING

from oneflower.images import nvidia
from oneflower.images.software import SITE
from oneflower.images.spec import SUITE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oneflower.images.spec import ImageSpec

BILL = "usr/share/oneflower/sbom.cdx.json"  # in the image


@dataclass(frozen=True)
class Package:
    """One package of an image. `kind` is deb or pypi. `licence` is the package's own text.

    A `section` of Debian tells whether it is free software: its copyright file says what one may do with it.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    licence: str = ""
    section: str = ""

    @property
    def is_non_free(self) -> bool:
        """Whether Debian counts it among what is not free software."""
        return self.section.startswith("non-free")


def packages(root: Path) -> list[Package]:
    """Return what is installed under the root of an image."""
    return sorted([*_debian(root), *_built(root), *_python(root)], key=lambda package: (package.kind, package.name))


def _debian(root: Path) -> Iterator[Package]:
    status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8")
    for paragraph in re.split(r"\n\n+", status.strip()):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Status"] == "install ok installed":
            yield Package(
                "deb", fields["Package"], fields["Version"], fields["Architecture"], section=fields["Section"] or ""
            )


def _built(root: Path) -> Iterator[Package]:
    """Yield the package whose sources were compiled into modules of the kernel: it is not installed itself."""
    if version := nvidia.package_version(root):
        yield Package("deb", nvidia.SOURCES, version, "amd64", section="non-free/kernel")


def _python(root: Path) -> Iterator[Package]:
    for path in (root / SITE).glob("*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        licence = fields["License-Expression"] or fields["License"] or ""
        yield Package("pypi", fields["Name"].lower().replace("_", "-"), fields["Version"], licence=licence)


def bill(spec: ImageSpec, found: list[Package]) -> str:
    """Return the bill of materials as JSON. The same packages give the same text."""
    from cyclonedx.model.bom import Bom, BomMetaData  # noqa: PLC0415 - only needed here
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
    from cyclonedx.model.license import DisjunctiveLicense  # noqa: PLC0415
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415
    from packageurl import PackageURL  # noqa: PLC0415

    def component(package: Package) -> Component:
        debian = package.kind == "deb"
        qualifiers = {"arch": package.architecture, "distro": SUITE} if debian else None
        url = PackageURL(package.kind, "debian" if debian else None, package.name, package.version, qualifiers)
        brief = package.licence.splitlines()[0][:100] if package.licence else ""
        if package.is_non_free:
            brief = f"not free software: /usr/share/doc/{package.name}/copyright"
        return Component(
            name=package.name, version=package.version, purl=url, bom_ref=str(url),
            licenses=[DisjunctiveLicense(name=brief)] if brief else [],
        )  # fmt: skip

    about = Component(name=spec.name, type=ComponentType.OPERATING_SYSTEM, bom_ref=spec.name)
    written = BomMetaData(component=about, timestamp=datetime.fromtimestamp(spec.epoch, UTC))
    bom = Bom(components=map(component, found), metadata=written, serial_number=spec.identifier("bill of materials"))
    bom.register_dependency(about, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
