"""The certificates that `connect` leaves for plain `flwr`: one for each federation, as long as it exists."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud.names import file_name
from oneflower.local.home import LocalHome
from oneflower_appliance.files import private_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Collection

    from oneflower.cloud import Cloud
    from oneflower.cloud.status import FederationStatus


def keep_ca(cloud: Cloud, status: FederationStatus) -> Path | None:
    """Write the CA of a federation to its own file and return the path, or None if it has no CA."""
    if not status.ca:
        return None
    path = private_directory(_folder()) / f"{file_name(status.name)}-{status.id}-{_mark(cloud)}.crt"
    write_atomic(path, status.ca)
    return path


def forget_gone(cloud: Cloud, living: Collection[int]) -> None:
    """Remove the files of federations of this cloud that are not among the living (service ids)."""
    for path in _folder().glob(f"*-{_mark(cloud)}.crt"):
        number = path.stem.rsplit("-", 2)[1]
        if number.isdigit() and int(number) not in living:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return LocalHome.of_user().state / "connections"


def _mark(cloud: Cloud) -> str:
    """Return what distinguishes this cloud from others: each numbers its services by itself."""
    return hashlib.sha256(cloud.endpoints.oneflow.encode()).hexdigest()[:8]
