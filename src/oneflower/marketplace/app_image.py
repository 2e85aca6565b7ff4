"""What a marketplace must know about an image, read from the manifest that `oneflower image build` writes."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from pathlib import Path

_MEMORY = 4096  # megabytes, if the manifest does not say


@dataclass(frozen=True)
class AppImage:
    """One image. `size` is the size of its disk in bytes, as catalogues expect, not the size of its file."""

    name: str
    file: str
    variant: str
    framework: str
    flower: str
    oneflower: str
    size: int
    md5: str
    sha256: str
    created: int
    memory: int

    @property
    def version(self) -> str:
        """The version of the app. Each image has its own, so that OpenNebula reads the catalogue again."""
        day = datetime.datetime.fromtimestamp(self.created, datetime.UTC)
        return f"{self.oneflower}-flwr{self.flower}-{day:%Y%m%d}-{self.sha256[:8]}"


def read_image(manifest: Path) -> AppImage:
    """Read a manifest. Raises `OneflowerError` if something that a catalogue needs is missing or not valid."""
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
    except OSError as error:
        raise OneflowerError(f"Cannot read {manifest}: {error.strerror}.", "", ExitCode.NOT_FOUND) from error
    except ValueError as error:
        raise _not_valid(manifest, "it is not JSON") from error
    if not isinstance(said, dict):
        raise _not_valid(manifest, "it is not an object")
    versions = said["versions"] if isinstance(said.get("versions"), dict) else {}
    name = _text(manifest, said, "name", r"[\w.+-]+")
    return AppImage(
        name=name,
        file=_text(manifest, said, "file", r"[\w.+-]+") if "file" in said else f"{name}.qcow2",
        variant=str(said.get("variant", "sklearn")),
        framework=str(said.get("framework", "sklearn")),
        flower=str(versions.get("flwr") or FLOWER_TESTED),
        oneflower=str(versions.get("oneflower") or "0"),
        size=_number(manifest, said, "disk" if "disk" in said else "size"),
        md5=_text(manifest, said, "md5", r"[0-9a-f]{32}"),
        sha256=_text(manifest, said, "sha256", r"[0-9a-f]{64}"),
        created=_number(manifest, said, "created"),
        memory=_number(manifest, said, "memory_mb") if "memory_mb" in said else _MEMORY,
    )


def _text(manifest: Path, said: dict[str, Any], key: str, form: str) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not re.fullmatch(form, value):
        raise _not_valid(manifest, f"its {key} is {value!r}")
    return value


def _number(manifest: Path, said: dict[str, Any], key: str) -> int:
    value = said.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _not_valid(manifest, f"its {key} is {value!r}")
    return value


def _not_valid(manifest: Path, why: str) -> OneflowerError:
    return OneflowerError(
        f"{manifest} is not the manifest of an image: {why}.", "Give the .json that `oneflower image build` writes."
    )
