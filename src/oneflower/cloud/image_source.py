"""Where the image of an appliance comes from, how it is verified, and what is known of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.opennebula import Carried, render
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALGORITHMS = {"md5": 32, "sha1": 40, "sha256": 64}
_VERIFIED = ("md5", "sha1")  # those that OpenNebula verifies, of a path and of a URL
TO_BE = "(new)"  # the id of what a dry run would create
_SECTION = "ONEFLOWER"  # the attribute of an image in which its facts are kept


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image: what it carries, and what a machine needs that boots it. 0 where that is not known.

    `cpu` is in cores, `memory` and `disk` are in MB. `least` is how large the image's own disk is, in MB. `release` is
    that of oneflower, and `driver` that of NVIDIA's driver, empty if it has none.
    """

    carried: Carried = field(default_factory=Carried)
    cpu: int = 0
    memory: int = 0
    disk: int = 0
    least: int = 0
    release: str = ""
    driver: str = ""

    @property
    def no_driver(self) -> bool:
        """Whether it is known that the image has no driver for a GPU: of somebody else's image nothing is known."""
        return bool(self.carried.flower) and not self.driver

    def attributes(self, owner: str) -> dict[str, Any]:
        """Return the attributes of an image that keep these facts, and for which registration it was made."""
        known = {
            "FLOWER": self.carried.flower, "FRAMEWORK": self.carried.framework, "RELEASE": self.release,
            "CPU": self.cpu, "MEMORY": self.memory, "DISK": self.disk, "DRIVER": self.driver,
        }  # fmt: skip
        return {_SECTION: {"NAME": owner} | {key: str(value) for key, value in known.items() if value}}

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> ImageFacts:
        """Return the facts that the attributes of an image keep. Without any, nothing is known."""
        said = attributes.get(_SECTION)
        if not isinstance(said, dict):
            return cls()
        numbers = {key: int(said[key.upper()]) for key in ("cpu", "memory", "disk") if _is_number(said, key)}
        carried = Carried(said.get("FLOWER", ""), said.get("FRAMEWORK", ""))
        return cls(carried, release=said.get("RELEASE", ""), driver=said.get("DRIVER", ""), **numbers)


@dataclass(frozen=True)
class Stored:
    """An image that machines boot: its id, or `TO_BE`, and its facts. `fresh` if it was not there before."""

    id: str
    name: str
    facts: ImageFacts
    fresh: bool = False


def owner_of(attributes: Mapping[str, Any]) -> str:
    """Return the name of the registration that an image was made for, or an empty text."""
    said = attributes.get(_SECTION)
    return str(said.get("NAME", "")) if isinstance(said, dict) else ""


def _is_number(said: Mapping[str, str], key: str) -> bool:
    return str(said.get(key.upper(), "")).isdigit()


@dataclass(frozen=True)
class ImageSource:
    """Where an image comes from: a path on OpenNebula's front-end or a URL, and its checksum, `algorithm:hex`.

    `title` and `facts` are what the manifest of an image says; `size` is that of its file, in bytes.
    """

    source: str
    checksum: str = ""
    title: str = ""
    facts: ImageFacts = field(default_factory=ImageFacts)
    size: int = 0

    @property
    def is_url(self) -> bool:
        """Whether OpenNebula must download it."""
        return "://" in self.source

    @property
    def is_here(self) -> bool:
        """Whether it is a file of this machine."""
        return not self.is_url and Path(self.source).is_file()

    def check(self) -> None:
        """Raise `OneflowerError` unless the image can be trusted to be what it should be."""
        algorithm, _, value = self.checksum.partition(":")
        if self.checksum and (len(value) != _ALGORITHMS.get(algorithm) or set(value) - set("0123456789abcdef")):
            raise OneflowerError(
                f"{self.checksum!r} is not a valid checksum.",
                f"Give one as {' or '.join(f'{a}:HEX' for a in _ALGORITHMS)}.",
            )
        if self.is_url and algorithm not in _VERIFIED:
            raise OneflowerError(
                f"OpenNebula does not verify whom it downloads {self.source} from.",
                "Give the image's manifest, or its checksum, md5:HEX or sha1:HEX: those it does verify.",
            )
        if not self.is_url and self.checksum and (self.is_here or algorithm not in _VERIFIED):
            self._check_file(algorithm, value)

    def _check_file(self, algorithm: str, value: str) -> None:
        try:
            with Path(self.source).open("rb") as stream:
                actual = hashlib.file_digest(stream, algorithm).hexdigest()
        except OSError as error:
            raise OneflowerError(
                f"The checksum of {self.source} cannot be verified: {error.strerror}.",
                "Run this command on OpenNebula's front-end, where the file is, or give md5:HEX or sha1:HEX, which "
                "OpenNebula verifies.",
                ExitCode.NOT_FOUND,
            ) from error
        if actual != value:
            raise OneflowerError(f"{self.source} has the {algorithm} {actual}, not {value}.", "Fetch the image again.")

    def name(self, owner: str, role: str) -> str:
        """Return the name of the image: another content gets another name, since images cannot be replaced."""
        known = self.checksum if self.title else f"{self.source} {self.checksum}"
        return f"{owner}-{self.title or role}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"

    def template(self, name: str, owner: str) -> str:
        """Return the image's template as OpenNebula's text."""
        algorithm, _, value = self.checksum.partition(":")
        with_driver = f", with NVIDIA's driver {self.facts.driver}" if self.facts.driver else ""
        content = {
            "NAME": name, "PATH": self.source, "TYPE": "OS", "PERSISTENT": "NO", "DEV_PREFIX": "vd", "FORMAT": "qcow2",
            "DESCRIPTION": f"oneflower: an appliance image{with_driver}", **self.facts.attributes(owner),
        }  # fmt: skip
        return render(content | ({algorithm.upper(): value} if algorithm in _VERIFIED else {}))
