"""Flower app bundles (.fab) as files: read, checked as Flower checks them before it installs one, and unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.app_bundle import MOST, Bundle, BundleError
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".fab"


def unpack(bundle: Path, folder: Path) -> None:
    """Check a bundle and unpack it into a folder that is empty. Raises `OneflowerError`."""
    for name, content in read(bundle).files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(bundle: Path) -> Bundle:
    """Read and check a bundle. Raises `OneflowerError`."""
    try:
        with bundle.open("rb") as stream:
            found = Bundle.read(stream.read(MOST + 1))
        publisher, name, version = found.identity
    except FileNotFoundError as error:
        raise OneflowerError(f"There is no file {bundle}.", "Check its path.", ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise OneflowerError(f"{bundle} cannot be read: {error.strerror}.", "", ExitCode.ENVIRONMENT) from error
    except BundleError as error:
        raise OneflowerError(
            f"{bundle.name} is not a Flower app bundle that can be used: {error}.", "Build it again with `flwr build`."
        ) from error
    expected = f"{publisher}.{name}.{version.replace('.', '-')}.{found.sha256[:8]}{SUFFIX}"
    if bundle.name != expected:
        raise OneflowerError(
            f"{bundle.name} does not have the name that belongs to its content, {expected}.",
            "It was renamed or changed. If you trust it, give it that name.",
        )
    return found
