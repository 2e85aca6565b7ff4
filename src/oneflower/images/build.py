"""Builds an image, step by step. What takes long is kept by its content, so that the next image is quick."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.images import base, disk, manifest, nvidia, overlay, sbom, software
from oneflower.images.app_image import manifest_of
from oneflower.images.appliance import installed
from oneflower.images.laying import usual_permissions
from oneflower.images.scratch import scratch
from oneflower.images.tools import check_tools, tool
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oneflower.images.spec import ImageSpec

    Step = Callable[[str], AbstractContextManager[object]]

_ROOM = 1 << 30  # left free in an image whose size nobody chose
_USUAL_SIZE = 4 << 30


@dataclass(frozen=True)
class Built:
    """An image and what is said of it: `manifest` is what the JSON file beside it holds."""

    image: Path
    manifest_file: Path
    sbom_file: Path
    manifest: dict[str, Any]


@contextmanager
def _silent(_what: str) -> Iterator[None]:
    yield


def build(spec: ImageSpec, folder: Path, cache: Path, step: Step = _silent, *, fresh: bool = False) -> Built:
    """Build the image into `folder`. Raises `OneflowerError`.

    `cache` keeps what other images are made of, too; `fresh` makes that again. `step` is entered for each step.
    """
    check_tools()
    installed()
    try:
        for path in (folder, cache):
            path.mkdir(parents=True, exist_ok=True)
        with usual_permissions(), _alone(cache), scratch(cache, "build-") as scene:
            root = scene / "root"
            assemble(spec, root, cache, step, fresh=fresh)
            found = sbom.packages(root)
            bill = sbom.bill(spec, found)
            write_atomic(root / sbom.BILL, bill, SHARED)
            described = manifest.description(spec, found)
            write_atomic(root / manifest.DESCRIPTION, json.dumps(described, indent=1) + "\n", SHARED)
            return _write(spec, root, scene / "disk.raw", folder / f"{spec.name}.qcow2", (described, bill), step)
    except OSError as error:
        raise OneflowerError(
            f"Cannot build {spec.name}: {error}.",
            f"See that {folder} and {cache} can be written to and have room, then try again.",
            ExitCode.ENVIRONMENT,
        ) from error


def assemble(spec: ImageSpec, root: Path, cache: Path, step: Step = _silent, *, fresh: bool = False) -> None:
    """Lay out the root folder of an image: what a container boots from, and what the file system is made of."""
    root.mkdir(parents=True, mode=0o755)
    kind = f"flwr-{spec.flower}-{spec.packages}{'-more' if spec.added else ''}"
    software_kept = _kept(cache, f"{kind}-{software.key(spec)}.tar", fresh=fresh)
    base_kept = _kept(cache, f"base{'-gpu' if spec.gpu else ''}-{base.key(spec)}.tar", fresh=fresh)
    if not base_kept.exists():
        with step("Debian packages, and NVIDIA's modules for their kernel" if spec.gpu else "Debian packages"):
            base.make(spec, base_kept, root.parent)
    with step("unpack the base"):
        _unpack(base_kept, root)
    if software_kept.exists():
        with step("unpack Flower and its packages"):
            _unpack(software_kept, root)
    else:
        with step(f"Flower {spec.flower} and {spec.packages}, by hash"):
            software.install(spec, root, root.parent)
            _pack(root, software.PREFIX, software_kept)
    with step("the appliance and its units"):
        software.lay_appliance(root)
        overlay.lay(spec, root)
    if spec.gpu:
        nvidia.check(root)
    for path in (base_kept, software_kept):
        _forget_older(cache, path)


def _write(spec: ImageSpec, root: Path, raw: Path, image: Path, told: tuple[dict[str, Any], str], step: Step) -> Built:
    content = int(tool(["du", "-sx", "--block-size=1", "--apparent-size", root], "measure the image").split()[0])
    size = spec.size or max(_USUAL_SIZE, -(-(content * 5 // 4 + _ROOM) // _ROOM) * _ROOM)
    if size < content * 5 // 4:
        raise OneflowerError(
            f"{size >> 20} MB are too small for an image of {content >> 20} MB.",
            f"Give --size {-(-content * 5 // 4 >> 30) + 1}G, or leave it out.",
        )
    with step("file system"):
        overlay.set_dates(root, spec.epoch)
        disk.partition(raw, size, spec.identifier)
        disk.make_filesystem(root, raw, size, spec.identifier, spec.epoch)
    with step("boot loaders for BIOS and UEFI"):
        disk.write_boot_loaders(raw, size, spec.identifier, spec.epoch)
    with step("compress"):
        manifest_of(image).unlink(missing_ok=True)  # it is about another image from now on
        disk.compress(raw, image)
    with step("checksums"):
        described, bill = told
        sizes = {"rootfs": content, "disk": size}
        about = manifest.manifest(described, image, manifest.contents(raw), sizes)
        beside, listed = manifest_of(image), image.with_suffix(".cdx.json")
        write_atomic(listed, bill, SHARED)
        write_atomic(beside, json.dumps(about, indent=1) + "\n", SHARED)  # the last, so an image with one is whole
    return Built(image, beside, listed, about)


def kept(cache: Path) -> list[Path]:
    """Return the files of which the next image is built. The time of each is when an image was last built of it."""
    return sorted(path for path in cache.glob("*.tar") if path.is_file() and not path.is_symlink())


def forget(cache: Path, seconds: float) -> list[tuple[Path, int]]:
    """Remove those that were not used for so long, and return them with their bytes. Raises `OneflowerError`."""
    if not kept(cache):
        return []
    with _alone(cache):
        states = [(path, path.stat()) for path in kept(cache)]
        old = [(path, state.st_size) for path, state in states if state.st_mtime <= time.time() - seconds]
        for path, _ in old:
            path.unlink()
    return old


def _kept(cache: Path, name: str, *, fresh: bool) -> Path:
    path = cache / name
    if fresh:
        path.unlink(missing_ok=True)
    if path.exists():
        os.utime(path)
    return path


def _unpack(archive: Path, root: Path) -> None:
    hint = "Check that there is disk space. If that file is damaged, build with --no-cache."
    tool(["tar", "--numeric-owner", "--xattrs", "-C", root, "-xpf", archive], f"unpack {archive}", hint=hint)


def _pack(root: Path, what: str, target: Path) -> None:
    partial = target.with_suffix(".part")
    tool(["tar", "--numeric-owner", "-C", root, "-cf", partial, what], f"keep {what}")
    partial.rename(target)


def _forget_older(cache: Path, kept: Path) -> None:
    """Remove what was kept of the same kind with other content: nothing would ever take it again."""
    kind = kept.name.rpartition("-")[0]
    for path in cache.glob(f"{kind}-*.tar"):
        if path.name.rpartition("-")[0] == kind and path != kept:
            path.unlink(missing_ok=True)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OneflowerError(
                f"Another build uses {cache}.", "Wait until it has ended, then try again.", ExitCode.CONFLICT
            ) from None
        for left in cache.glob("*.part"):  # of a build that was killed
            left.unlink()
        yield
