"""Where the image of an appliance comes from, and how it is verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from oneflower.opennebula import render
from oneflower_appliance.errors import ExitCode, OneflowerError

_ALGORITHMS = {"md5": 32, "sha1": 40, "sha256": 64}


@dataclass(frozen=True)
class ImageSource:
    """Where an image comes from: a path on OpenNebula's front-end or a URL, and its checksum, `algorithm:hex`."""

    source: str
    checksum: str = ""

    @property
    def is_url(self) -> bool:
        """Whether OpenNebula must download it."""
        return "://" in self.source

    def check(self) -> None:
        """Raise `OneflowerError` unless the image can be trusted to be what it should be."""
        algorithm, _, value = self.checksum.partition(":")
        if self.checksum and (len(value) != _ALGORITHMS.get(algorithm) or set(value) - set("0123456789abcdef")):
            raise OneflowerError(
                f"{self.checksum!r} is not a valid checksum.",
                f"Give one as {' or '.join(f'{a}:HEX' for a in _ALGORITHMS)}.",
            )
        if self.is_url and algorithm not in ("md5", "sha1"):
            raise OneflowerError(
                f"OpenNebula does not verify whom it downloads {self.source} from.",
                "Give the image's checksum, md5:HEX or sha1:HEX: those it does verify.",
            )
        if not self.is_url and self.checksum:
            self._check_file(algorithm, value)

    def _check_file(self, algorithm: str, value: str) -> None:
        try:
            with Path(self.source).open("rb") as stream:
                actual = hashlib.file_digest(stream, algorithm).hexdigest()
        except OSError as error:
            raise OneflowerError(
                f"The checksum of {self.source} cannot be verified: {error.strerror}.",
                "Run this command on OpenNebula's front-end, where the file is.",
                ExitCode.NOT_FOUND,
            ) from error
        if actual != value:
            raise OneflowerError(f"{self.source} has the {algorithm} {actual}, not {value}.", "Fetch the image again.")

    def name(self, prefix: str) -> str:
        """Return the name of the image: another content gets another name, since images cannot be replaced."""
        return f"{prefix}-{hashlib.sha256(f'{self.source} {self.checksum}'.encode()).hexdigest()[:8]}"

    def template(self, name: str) -> str:
        """Return the image's template as OpenNebula's text."""
        algorithm, _, value = self.checksum.partition(":")
        content = {
            "NAME": name, "PATH": self.source, "TYPE": "OS", "PERSISTENT": "NO", "DEV_PREFIX": "vd", "FORMAT": "qcow2",
            "DESCRIPTION": "oneflower: an appliance image",
        }  # fmt: skip
        return render(content | ({algorithm.upper(): value} if algorithm in ("md5", "sha1") else {}))
