"""Signing an app with an SSH key, through `ssh-keygen`: so keys in agents and in hardware work, too."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud import fab
from oneflower.process import QUIET_FLOWER, attend, run
from oneflower_appliance.app_bundle import SIGNATURE, Bundle
from oneflower_appliance.app_signature import (
    NAMESPACE,
    Signature,
    SignatureError,
    fingerprint,
    message,
    read_signatures,
    write_signatures,
)
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KEYS = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")


@dataclass(frozen=True)
class Signed:
    """An app that was signed: what was written, the content hash, and the fingerprints of all keys that signed it."""

    app: str
    file: Path
    content: str
    keys: tuple[str, ...]


def bundle_of(name: str, flwr: Callable[[], Path], environment: Mapping[str, str]) -> Bundle:
    """Return the bundle of an app: a folder, a pre-built app or a .fab. Flower builds it. Raises `OneflowerError`."""
    path = USE_CASES[name].folder if name in USE_CASES else Path(name).expanduser().resolve()
    if path.suffix == fab.SUFFIX and not path.is_dir():
        return fab.read(path)
    if not (path / "pyproject.toml").is_file():
        raise OneflowerError(
            f"{name} is not a Flower app: it is neither a folder with a pyproject.toml nor a bundle (.fab).",
            "Name the folder of the app.",
            ExitCode.NOT_FOUND,
        )
    with tempfile.TemporaryDirectory(prefix="oneflower-") as place:
        command = [str(flwr()), "build", "--app", str(path)]
        run(command, f"build {name}", "", dict(environment) | QUIET_FLOWER, apart_in=Path(place))
        [built] = Path(place).glob(f"*{fab.SUFFIX}")
        return fab.read(built)


def sign(folder: Path, key: Path | None, build: Callable[[], Bundle]) -> Signed:
    """Sign the app in a folder, which `build` bundles, and write the signature into the folder.

    `key` is a private key, or a public key whose private key an agent has. Signatures by others stay if they are of
    the same content. Raises `OneflowerError`.
    """
    bundle = build()
    content, path = bundle.content_hash, folder / SIGNATURE
    signed = message(content)
    armored = _made(signed, key or _own_key())
    new = Signature.parse(armored)
    new.check(signed)
    others = [text for text in _written(path) if _fits(text, signed) and Signature.parse(text).key != new.key]
    write_atomic(path, write_signatures([*others, armored]), SHARED)
    if build().files.get(SIGNATURE) != path.read_bytes():
        raise OneflowerError(
            f"Flower does not pack {SIGNATURE}, so the signature would not reach a site.",
            f"Add {SIGNATURE} to `fab-include` in [tool.flwr.app] of its pyproject.toml, and see that no .gitignore or "
            "`fab-exclude` leaves it out. Then sign it again.",
        )
    keys = (*(fingerprint(Signature.parse(text).key) for text in others), fingerprint(new.key))
    return Signed(bundle.label, path, content, keys)


def _own_key() -> Path:
    folder = Path.home() / ".ssh"
    for name in _KEYS:
        if (found := folder / name).is_file():
            return found
    raise OneflowerError(
        f"There is no SSH key in {folder}.",
        "Name one with `--key`, or make one with `ssh-keygen -t ed25519`.",
        ExitCode.NOT_FOUND,
    )


def _made(signed: bytes, key: Path) -> str:
    """Have ssh-keygen sign, in the foreground: it may ask for a passphrase or a touch of a hardware key."""
    if not key.expanduser().is_file():
        raise OneflowerError(f"The key {key} is not there.", "Check its path.", ExitCode.NOT_FOUND)
    with tempfile.TemporaryDirectory(prefix="oneflower-") as place:
        path = Path(place) / "app"
        path.write_bytes(signed)
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key.expanduser()), "-n", NAMESPACE, str(path)]
        if attend(command) or not path.with_suffix(".sig").exists():
            raise OneflowerError(
                "ssh-keygen did not sign the app; its reason is above.",
                "If it is the key of an agent, name its public key.",
                ExitCode.ENVIRONMENT,
            )
        return path.with_suffix(".sig").read_text(encoding="ascii")


def _written(path: Path) -> list[str]:
    with suppress(OSError, SignatureError):
        return read_signatures(path.read_bytes())
    return []


def _fits(armored: str, signed: bytes) -> bool:
    try:
        Signature.parse(armored).check(signed)
    except SignatureError:
        return False
    return True
