"""Writes wheels and their list into a folder or a tar file of it: machines without a network install from them."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.packages import LIST, digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from oneflower.images.wheels import Wheel

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds of silence
_HINT = "Check that the package registry can be reached and that there is disk space, then try again."


@dataclass(frozen=True)
class Bundle:
    """A folder of wheels, or a tar file of it: `packages` is the value of FL_PACKAGES that installs all of them."""

    path: Path
    packages: str
    wheels: tuple[str, ...]
    size: int


def write_bundle(wheels: Sequence[Wheel], path: Path) -> Bundle:
    """Fetch the wheels into the folder `path`, or the tar file `path` if its name ends so. Raises `OneflowerError`.

    An earlier bundle there is replaced. Anything else that is there stays, and is an error.
    """
    tar = path.suffix == ".tar"
    listed = "".join(f"{wheel.line}\n" for wheel in wheels)
    _check_place(path, tar=tar)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}-", dir=path.absolute().parent) as scratch:
            folder = Path(scratch, path.stem if tar else path.name)
            folder.mkdir()
            for wheel in wheels:
                _fetch(wheel, folder / wheel.file)
            write_atomic(folder / LIST, listed, SHARED)
            size = sum(each.stat().st_size for each in folder.iterdir())
            if tar:
                _pack(folder, Path(scratch, path.name)).replace(path)
            else:
                shutil.rmtree(path, ignore_errors=True)
                folder.rename(path)
    except OSError as error:
        raise OneflowerError(f"Cannot write {path}: {error}.", _HINT, ExitCode.ENVIRONMENT) from error
    value = f"{LIST} --hash=sha256:{digest_of(listed.encode())}"
    return Bundle(path, value, tuple(f"{wheel.name}=={wheel.version}" for wheel in wheels), size)


def _check_place(path: Path, *, tar: bool) -> None:
    free = not path.exists() or (path.is_file() if tar else path.is_dir() and not any(path.iterdir()))
    if not free and not (path / LIST).is_file():
        raise OneflowerError(
            f"{path} exists and is not a bundle.", "Give another folder, or a file NAME.tar.", ExitCode.CONFLICT
        )


def _fetch(wheel: Wheel, target: Path) -> None:
    """Fetch one wheel and check its hash. Raises `OneflowerError`."""
    with target.open("wb") as stream:
        if "://" not in wheel.source or wheel.source.startswith("file:"):
            source = Path(unquote(urlsplit(wheel.source).path))
            with source.open("rb") as content:
                shutil.copyfileobj(content, stream)
        else:
            _download(wheel.source, stream)
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    if digest.hexdigest() != wheel.sha256:
        raise OneflowerError(
            f"{wheel.file} has the SHA-256 {digest.hexdigest()}, not {wheel.sha256}.",
            "What was fetched is not what the package registry promised. Try again.",
            ExitCode.ENVIRONMENT,
        )


def _download(url: str, stream: BinaryIO) -> None:
    import httpx  # noqa: PLC0415 - only needed here

    try:
        context = ssl.create_default_context()
        with httpx.stream("GET", url, verify=context, timeout=_TIMEOUT, follow_redirects=True) as answer:
            answer.raise_for_status()
            stream.writelines(answer.iter_bytes(_CHUNK))
    except httpx.HTTPError as error:
        name = urlsplit(url).path.rpartition("/")[2]
        raise OneflowerError(f"Cannot fetch {name}: {error}.", _HINT, ExitCode.ENVIRONMENT) from error


def _pack(folder: Path, target: Path) -> Path:
    """Write the folder as a tar file, which is the same each time."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else SHARED
        return entry

    with tarfile.open(target, "w") as archive:
        archive.add(folder, folder.name, recursive=False, filter=plain)
        for each in sorted(folder.iterdir()):
            archive.add(each, f"{folder.name}/{each.name}", filter=plain)
    return target
