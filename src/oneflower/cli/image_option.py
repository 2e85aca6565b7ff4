"""The image that an operator names: a folder, a file, a URL, or an image that OpenNebula has."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oneflower.cli import screen
from oneflower.cloud.image_source import ImageFacts, ImageSource
from oneflower.cloud.machine import NONE
from oneflower.images.app_image import found_in, manifest_of, parse_manifest, read_image
from oneflower.images.spec import parse_size
from oneflower.opennebula import Carried
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud import Cloud
    from oneflower.images.app_image import AppImage

_TIMEOUT = 30.0
_LARGEST = 1 << 20  # bytes of a manifest


def volume(text: str) -> str:
    """Return a second disk as `VmOptions` has it: a size like 20G in megabytes, or a name."""
    return f"{parse_size(text) >> 20}M" if re.fullmatch(r"\d+[MGTmgt]", text) else text


class ImageOption:
    """`--image`, and what may replace it for a role. `manifest` is that of `--manifest`."""

    def __init__(self, cloud: Cloud, image: str, manifest: str) -> None:
        self._cloud = cloud
        self._image = image
        self._manifest = manifest
        if manifest and not image:
            raise OneflowerError("There is no image to the manifest.", "Give --image, too.", ExitCode.USAGE)

    def of_roles(self, given: Mapping[str, tuple[str, str]]) -> tuple[dict[str, ImageSource], dict[str, str]]:
        """Return the images to be put there, and the names of those that OpenNebula has, by role.

        `given` has what is chosen for a role only, and its checksum. Raises `OneflowerError`.
        """
        common = self._source(self._image, "", self._manifest, strict=True) if self._is_source(self._image) else None
        sources, names = {}, {}
        for role, (own, checksum) in given.items():
            chosen = own or self._image
            if self._is_source(chosen):
                sources[role] = self._source(own, checksum) if own or common is None else common
            elif chosen:
                names[role] = chosen
        return sources, names

    @cached_property
    def _known(self) -> dict[str, int]:
        return self._cloud.core.images()

    def _is_source(self, text: str) -> bool:
        if text in ("", NONE) or text in self._known:
            return False
        if "/" in text or Path(text).exists():
            return True
        raise OneflowerError(
            f"There is no image called {text!r}, or none that you may use.",
            "Give a path (/var/tmp/node.qcow2), a URL, or the name of an image that `oneimage list` shows.",
            ExitCode.NOT_FOUND,
        )

    def _source(self, text: str, checksum: str, manifest: str = "", *, strict: bool = False) -> ImageSource:
        """Return where an image comes from. A `strict` one must have a manifest."""
        if "://" in text:
            about = None if checksum else self._described_at(text, manifest)
            return _source(text, about, checksum)
        path = Path(text).absolute()
        if path.is_dir() or path.suffix == ".json":
            found = found_in(path) if path.is_dir() else path
            about = read_image(found)
            path = found.parent / about.file
        elif manifest:
            about = self._read(manifest)
        elif manifest_of(path).is_file() or (strict and path.is_file()):
            about = read_image(manifest_of(path))
        elif checksum or path.is_file():
            about = None
        else:
            raise OneflowerError(
                f"{text} is not on this machine, and its manifest is not known.",
                "If it is on OpenNebula's front-end, give --manifest with the .json that belongs to it.",
                ExitCode.NOT_FOUND,
            )
        if about is not None and path.is_file():
            screen.say(f"verifying {path.name}")
            about.check(path)
        return _source(str(path.resolve()), about, checksum)

    def _described_at(self, url: str, manifest: str) -> AppImage:
        if manifest:
            return self._read(manifest)
        beside = url.rpartition("?")[0] or url
        return self._read(f"{beside.removesuffix('.qcow2')}.json")

    def _read(self, manifest: str) -> AppImage:
        return self._download(manifest) if "://" in manifest else read_image(Path(manifest))

    def _download(self, url: str) -> AppImage:
        import httpx  # noqa: PLC0415 - costs time that most commands need not spend

        if urlsplit(url).scheme != "https":
            raise OneflowerError(
                f"The manifest {url} could be changed on its way.",
                "Fetch it in a way that you trust, and give the file with --manifest: the image is verified by it.",
            )
        try:
            answer = httpx.get(url, follow_redirects=True, timeout=_TIMEOUT).raise_for_status()
        except httpx.HTTPError as error:
            raise OneflowerError(
                f"The manifest {url} cannot be downloaded: {error}.",
                "Publish it beside the image, or give --manifest.",
                ExitCode.NOT_FOUND,
            ) from error
        if len(answer.content) > _LARGEST:
            raise OneflowerError(f"{url} is too long for a manifest.", "Give the .json that belongs to the image.")
        return parse_manifest(answer.text, url)


def _source(source: str, about: AppImage | None, checksum: str) -> ImageSource:
    if about is None:
        return ImageSource(source, checksum)
    facts = ImageFacts(
        Carried(about.flower, about.framework),
        about.needs.cpu,
        about.needs.memory,
        max(about.needs.disk, about.size >> 20),
        about.size >> 20,
        about.oneflower,
        about.driver,
    )
    title = about.name.removeprefix("oneflower-")
    return ImageSource(source, checksum or f"md5:{about.md5}", title, facts, about.length)
