"""The files of a Flower app bundle (FAB), checked before any of it is used, and the hash of an app's content.

A bundle may come from anywhere, so it is read as a whole, in memory, and nothing of it is unpacked here.

The *content hash* names an app by what is in it: the files of its bundle, except the list that Flower adds and the
signature. A bundle of the same files, built elsewhere, has the same content hash. It is the SHA-256 of one line for
each file, in the order of their names: the SHA-256 of the file, two spaces, its name. Flower writes pyproject.toml
again, so of that file what counts is its values, as JSON with sorted keys.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tomllib
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LIST = ".info/CONTENT"  # a line for each file: path, SHA-256 and bits
SIGNATURE = "oneflower-signature.json"  # of a type that Flower packs
PROJECT = "pyproject.toml"
MOST = 10 << 20  # bytes of a bundle, as Flower limits it
_MOST_UNPACKED = 100 << 20
_MOST_FILES = 10_000
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


class BundleError(ValueError):
    """A bundle that cannot be used. The text completes "it cannot be used: ..."."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose list and names were checked. `files` are all of its files but the list, by name."""

    files: Mapping[str, bytes] = field(repr=False)
    packed: bytes = field(repr=False)

    @classmethod
    def read(cls, packed: bytes) -> Bundle:
        """Read and check a bundle. Raises `BundleError`."""
        if len(packed) > MOST:
            raise BundleError(f"it is larger than the {MOST >> 20} MB that Flower takes")
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                files = {info.filename: archive.read(info) for info in _checked(archive.infolist())}
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise BundleError(f"it is not a whole zip archive ({error})") from error
        _check_hashes(files)
        del files[LIST]
        return cls(files, packed)

    @property
    def sha256(self) -> str:
        """Flower's hash of it, which depends on how it was packed."""
        return hashlib.sha256(self.packed).hexdigest()

    @property
    def identity(self) -> tuple[str, str, str]:
        """Publisher, name and version of the app. Raises `BundleError` if its pyproject.toml does not name them."""
        try:
            content = project(self.files)
            own = content["project"]
            found = (content["tool"]["flwr"]["app"]["publisher"], own["name"], own["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("its pyproject.toml does not name publisher, name and version") from error
        if not all(isinstance(part, str) and part for part in found):
            raise BundleError("its pyproject.toml does not name publisher, name and version")
        return found

    @property
    def label(self) -> str:
        """The app as people name it: publisher/name version."""
        publisher, name, version = self.identity
        return f"{publisher}/{name} {version}"

    @property
    def content_hash(self) -> str:
        """The content hash, as hexadecimal digits. Raises `BundleError`."""
        return content_hash(self.files)


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of what counts of each file of an app, by name. Raises `BundleError`."""
    counted = {name: content for name, content in files.items() if name not in (SIGNATURE, LIST)}
    counted[PROJECT] = json.dumps(project(files), sort_keys=True, default=str).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(counted.items())}


def content_hash(files: Mapping[str, bytes]) -> str:
    """Return the content hash of the files of an app. Raises `BundleError`."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes(files).items())
    return hashlib.sha256(lines.encode()).hexdigest()


def project(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the values in the pyproject.toml of an app. Raises `BundleError`."""
    try:
        return tomllib.loads(files[PROJECT].decode())
    except (KeyError, ValueError) as error:
        raise BundleError(f"it has no valid {PROJECT}") from error


def _checked(members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the files of an archive. Raises `BundleError` unless it is safe to unpack all of them."""
    if len(members) > _MOST_FILES or sum(info.file_size for info in members) > _MOST_UNPACKED:
        raise BundleError(f"it would unpack to more than {_MOST_UNPACKED >> 20} MB or {_MOST_FILES} files")
    files: dict[str, zipfile.ZipInfo] = {}
    folders = {str(folder) for info in members for folder in PurePosixPath(info.filename).parents}
    for info in members:
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        if not _is_inside(name):
            raise BundleError(f"it would write outside of its folder: {name!r}")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BundleError(f"{name} is not a file but a link or a device")
        if info.is_dir():
            continue
        if info.compress_type not in _PACKED or info.flag_bits & _ENCRYPTED:
            raise BundleError(f"{name} is encrypted, or compressed as Flower does not do it")
        if name in files or name in folders:
            raise BundleError(f"it has {name} twice")
        files[name] = info
    return list(files.values())


def _is_inside(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _check_hashes(files: Mapping[str, bytes]) -> None:
    """Raise `BundleError` unless the list in the bundle has each of the files, with its hash."""
    if LIST not in files:
        raise BundleError(f"it has no list of its files ({LIST})")
    listed = dict(line.split(",")[:2] for line in files[LIST].decode(errors="replace").splitlines() if line.count(","))
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != LIST}
    if wrong := sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name)):
        raise BundleError(f"its list and its files differ: {wrong[0]}")
