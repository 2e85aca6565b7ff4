"""The manifest next to an image: versions, sizes, checksums."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from oneflower.images import nvidia
from oneflower.images.spec import ARCHITECTURE, PYTHON, SUITE
from oneflower_appliance import __version__
from oneflower_appliance.packages import ADDED, INSTEAD

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower.images.sbom import Package
    from oneflower.images.spec import ImageSpec

DESCRIPTION = "usr/share/oneflower/image.json"  # in the image
_INSTEAD = ("torch",)  # of which an image for a GPU has another release
_CHUNK = 1 << 20


def description(spec: ImageSpec, found: list[Package]) -> dict[str, Any]:
    """Return what an image says of itself, in it (`DESCRIPTION`) and in its manifest."""
    versions = {package.name: package.version for package in found}
    driver = versions.get(nvidia.SOURCES, "").partition("-")[0]
    kernel = next((package.version for package in found if package.name.startswith("linux-image-")), "")
    return {
        "name": spec.name,
        "architecture": ARCHITECTURE,
        "variant": spec.label,
        "framework": spec.framework,
        "cpu": spec.needs.cpu,
        "memory_mb": spec.needs.memory,
        "disk_mb": spec.needs.disk,
        "versions": {
            "oneflower": __version__,
            "flwr": versions.get("flwr", ""),
            "python": PYTHON,
            "debian": SUITE,
            "linux": kernel,
            **({"nvidia": driver} if driver else {}),
        },
        "firmware": ["bios", "uefi"],
        "created": spec.epoch,
        "non_free": [package.name for package in found if package.is_non_free],
        ADDED: list(spec.added),
        INSTEAD: [f"{name}=={versions[name]}" for name in _INSTEAD if spec.gpu and name in versions],
        "packages": {kind: sum(package.kind == kind for package in found) for kind in ("deb", "pypi")},
    }


def manifest(described: dict[str, Any], image: Path, filesystem: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the manifest. `filesystem` is the digest of the disk before it was compressed."""
    md5, sha256 = checksums(image)
    return {
        **described,
        "file": image.name,
        "format": "qcow2",
        "size": image.stat().st_size,
        **sizes,
        "md5": md5,
        "sha256": sha256,
        "disk_digest": filesystem,
    }


def checksums(path: Path) -> tuple[str, str]:
    """Return md5, which OpenNebula checks, and sha256, with which people identify a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def contents(path: Path) -> str:
    """Return a digest of the content of a disk that is mostly empty: of each piece that is not, and its place."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        place = 0
        while place < end:
            try:
                place = stream.seek(place, os.SEEK_DATA) // _CHUNK * _CHUNK
            except OSError:  # the rest is empty
                break
            stream.seek(place)
            piece = stream.read(_CHUNK)
            if piece.strip(b"\0"):
                digest.update(f"{place} {len(piece)}\n".encode() + piece)
            place += len(piece)
    digest.update(f"{end}\n".encode())
    return digest.hexdigest()
