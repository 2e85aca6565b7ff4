"""A built image, as the manifest beside it describes it, for all who use images."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.images.manifest import DESCRIPTION, checksums
from oneflower.images.spec import NEEDS, Needs
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Contents:
    """What is in an image, as it says itself."""

    variant: str
    framework: str
    flower: str


@dataclass(frozen=True)
class AppImage:
    """One image. `size` is that of its disk in bytes, as catalogues expect, and `length` that of its file.

    `needs` is what a machine that boots it needs. `driver` is the version of NVIDIA's driver in it, empty without one.
    """

    name: str
    file: str
    variant: str
    framework: str
    flower: str
    oneflower: str
    size: int
    length: int
    md5: str
    sha256: str
    created: int
    needs: Needs
    driver: str = ""

    @property
    def contents(self) -> Contents:
        """What is in it."""
        return Contents(self.variant, self.framework, self.flower)

    @property
    def version(self) -> str:
        """The version of the app. Each image has its own, so that OpenNebula reads the catalogue again."""
        day = datetime.datetime.fromtimestamp(self.created, datetime.UTC)
        return f"{self.oneflower}-flwr{self.flower}-{day:%Y%m%d}-{self.sha256[:8]}"

    def check(self, path: Path) -> None:
        """Raise `OneflowerError` unless the file `path` is this image, whole and unchanged."""
        length = path.stat().st_size
        if length != self.length:
            raise _damaged(path, f"has {length} bytes, and its manifest says {self.length}")
        _, sha256 = checksums(path)
        if sha256 != self.sha256:
            raise _damaged(path, f"has the sha256 {sha256}, and its manifest says {self.sha256}")


def manifest_of(image: Path) -> Path:
    """Return where the manifest of the file `image` is: beside it."""
    return image.with_suffix(".json")


def found_in(folder: Path) -> Path:
    """Return the manifest of the one image in a folder. Raises `OneflowerError` if there is none, or another one."""
    found = sorted(each for each in folder.glob("*.json") if not each.name.endswith(".cdx.json"))
    if not found:
        raise OneflowerError(
            f"In {folder} there is no image with its manifest.",
            "Build one: `oneflower image build`.",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        raise OneflowerError(
            f"In {folder} there are {len(found)} images.",
            f"Name one: {', '.join(each.with_suffix('.qcow2').name for each in found)}.",
            ExitCode.CONFLICT,
        )
    return found[0]


def checked_image(path: Path) -> AppImage:
    """Return the image in the file `path`, whole and unchanged. Raises `OneflowerError`."""
    if not manifest_of(path).is_file():
        raise OneflowerError(
            f"There is no manifest beside {path}, so nothing says whether the image is whole.",
            f"Copy {manifest_of(path).name}, which `oneflower image build` wrote with it, into the same folder.",
            ExitCode.NOT_FOUND,
        )
    image = read_image(manifest_of(path))
    image.check(path)
    return image


def contents(root: Path) -> Contents:
    """Return what is in the image whose root file system is the folder `root`. Raises `OneflowerError`."""
    try:
        said = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        return Contents(said["variant"], said["framework"], said["versions"]["flwr"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OneflowerError(
            f"{root} is not the root file system of an image of ours: it has no valid /{DESCRIPTION}.",
            "Give the file or the folder of an image that `oneflower image build` made.",
            ExitCode.INVALID_INPUT,
        ) from error


def read_image(manifest: Path) -> AppImage:
    """Read a manifest. Raises `OneflowerError` if something that a catalogue needs is missing or not valid."""
    try:
        text = manifest.read_text(encoding="utf-8")
    except OSError as error:
        raise OneflowerError(
            f"Cannot read {manifest}: {error.strerror}.",
            "`oneflower image build` writes the manifest beside the image. Keep the two together.",
            ExitCode.NOT_FOUND,
        ) from error
    return parse_manifest(text, str(manifest))


def parse_manifest(text: str, manifest: str) -> AppImage:
    """Read the text of a manifest; `manifest` is where it is from. Raises `OneflowerError` if it is not valid."""
    try:
        said = json.loads(text)
    except ValueError as error:
        raise _not_valid(manifest, "it is not JSON") from error
    if not isinstance(said, dict):
        raise _not_valid(manifest, "it is not an object")
    usual_words = {"variant": "sklearn", "framework": "sklearn", "flwr": FLOWER_TESTED, "oneflower": "0"}
    versions = said["versions"] if isinstance(said.get("versions"), dict) else {}
    words = usual_words | {key: value for key, value in (said | versions).items() if key in usual_words and value}
    name = _text(manifest, said, "name", r"[\w.+-]+")
    variant = _text(manifest, words, "variant", r"[\w-]+")
    usual = NEEDS.get(variant, NEEDS["sklearn"])
    return AppImage(
        name=name,
        file=_text(manifest, said, "file", r"[\w.+-]+") if "file" in said else f"{name}.qcow2",
        variant=variant,
        framework=_text(manifest, words, "framework", r"[\w-]+"),
        flower=_text(manifest, words, "flwr", r"[\w.+-]+"),
        oneflower=_text(manifest, words, "oneflower", r"[\w.+-]+"),
        size=_number(manifest, said, "disk" if "disk" in said else "size"),
        length=_number(manifest, said, "size"),
        md5=_text(manifest, said, "md5", r"[0-9a-f]{32}"),
        sha256=_text(manifest, said, "sha256", r"[0-9a-f]{64}"),
        created=_number(manifest, said, "created"),
        needs=Needs(
            cpu=_number(manifest, said, "cpu") if "cpu" in said else usual.cpu,
            memory=_number(manifest, said, "memory_mb") if "memory_mb" in said else usual.memory,
            disk=_number(manifest, said, "disk_mb") if "disk_mb" in said else usual.disk,
        ),
        driver=_text(manifest, versions, "nvidia", r"[\d.]+") if versions.get("nvidia") else "",
    )


def _text(manifest: str, said: dict[str, Any], key: str, form: str) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not re.fullmatch(form, value):
        raise _not_valid(manifest, f"its {key} is {value!r}")
    return value


def _number(manifest: str, said: dict[str, Any], key: str) -> int:
    value = said.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _not_valid(manifest, f"its {key} is {value!r}")
    return value


def _not_valid(manifest: str, why: str) -> OneflowerError:
    return OneflowerError(
        f"{manifest} is not the manifest of an image: {why}.", "Give the .json that `oneflower image build` writes."
    )


def _damaged(path: Path, why: str) -> OneflowerError:
    return OneflowerError(
        f"{path} {why}: it was not copied whole, or was changed.",
        "Copy it again, or build it again.",
        ExitCode.INVALID_INPUT,
    )
