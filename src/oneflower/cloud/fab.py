"""Flower app bundles (.fab): checked as Flower checks them before it installs one, and unpacked.

A bundle may come from anywhere, so nothing of it is written before all of it was checked.
"""

from __future__ import annotations

import hashlib
import stat
import tomllib
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIX = ".fab"
LIST = ".info/CONTENT"  # a line for each file: path, SHA-256 and bits
_MOST = 10 << 20  # bytes of a bundle, as Flower limits it
_MOST_UNPACKED = 100 << 20
_MOST_FILES = 10_000
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


def unpack(bundle: Path, folder: Path) -> None:
    """Check a bundle and unpack it into a folder that is empty. Raises `OneflowerError`."""
    try:
        if bundle.stat().st_size > _MOST:
            raise _refused(bundle, f"it is larger than the {_MOST >> 20} MB that Flower takes")
        packed = bundle.read_bytes()
        with zipfile.ZipFile(bundle) as archive:
            files = {info.filename: archive.read(info) for info in _checked(bundle, archive.infolist())}
    except FileNotFoundError as error:
        raise OneflowerError(f"There is no file {bundle}.", "Check its path.", ExitCode.NOT_FOUND) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _refused(bundle, f"it is not a whole zip archive ({error})") from error
    except OSError as error:
        raise OneflowerError(f"{bundle} cannot be read: {error.strerror}.", "", ExitCode.ENVIRONMENT) from error
    _check_hashes(bundle, files)
    _check_name(bundle, files, hashlib.sha256(packed).hexdigest())
    del files[LIST]
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _checked(bundle: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the files of an archive. Raises `OneflowerError` unless it is safe to unpack all of them."""
    if len(members) > _MOST_FILES or sum(info.file_size for info in members) > _MOST_UNPACKED:
        raise _refused(bundle, f"it would unpack to more than {_MOST_UNPACKED >> 20} MB or {_MOST_FILES} files")
    files: dict[str, zipfile.ZipInfo] = {}
    folders = {str(folder) for info in members for folder in PurePosixPath(info.filename).parents}
    for info in members:
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        if not _is_inside(name):
            raise _refused(bundle, f"it would write outside of its folder: {name!r}")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(bundle, f"{name} is not a file but a link or a device")
        if info.is_dir():
            continue
        if info.compress_type not in _PACKED or info.flag_bits & _ENCRYPTED:
            raise _refused(bundle, f"{name} is encrypted, or compressed as Flower does not do it")
        if name in files or name in folders:
            raise _refused(bundle, f"it has {name} twice")
        files[name] = info
    return list(files.values())


def _is_inside(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _check_hashes(bundle: Path, files: Mapping[str, bytes]) -> None:
    """Raise `OneflowerError` unless the list in the bundle has each of the files, with its hash."""
    if LIST not in files:
        raise _refused(bundle, f"it has no list of its files ({LIST})")
    listed = dict(line.split(",")[:2] for line in files[LIST].decode(errors="replace").splitlines() if line.count(","))
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != LIST}
    if wrong := sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name)):
        raise _refused(bundle, f"its list and its files differ: {wrong[0]}")


def _check_name(bundle: Path, files: Mapping[str, bytes], digest: str) -> None:
    """Raise `OneflowerError` unless the bundle has the name that Flower gave it, which has the start of its hash."""
    try:
        content = tomllib.loads(files["pyproject.toml"].decode())
        project, publisher = content["project"], content["tool"]["flwr"]["app"]["publisher"]
        version = project["version"].replace(".", "-")
        expected = f"{publisher}.{project['name']}.{version}.{digest[:8]}{SUFFIX}"
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _refused(bundle, "its pyproject.toml does not name publisher, name and version") from error
    if bundle.name != expected:
        raise OneflowerError(
            f"{bundle.name} does not have the name that belongs to its content, {expected}.",
            "It was renamed or changed. If you trust it, give it that name.",
        )


def _refused(bundle: Path, why: str) -> OneflowerError:
    return OneflowerError(
        f"{bundle.name} is not a Flower app bundle that can be used: {why}.", "Build it again with `flwr build`."
    )
