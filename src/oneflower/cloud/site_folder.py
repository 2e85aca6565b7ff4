"""The folder in which a site's operator keeps its policy, the signers that it trusts and the apps that it approved.

`policy.toml` is the policy itself, which people edit. `allowed_signers` and `approved.json` are beside it and count as
well. What a machine gets is one text made of all three.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from oneflower.cloud.person import person
from oneflower_appliance.app_bundle import PROJECT, SIGNATURE, Bundle, hashes, project
from oneflower_appliance.app_signature import SignatureError, Signer
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, private_directory, write_atomic
from oneflower_appliance.site_policy import SitePolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNERS, _APPROVED, _BUNDLES = "allowed_signers", "approved.json", "approved"
_MOST_LINES = 400  # of a difference that is shown


def default_policy() -> Path:
    """Return where this user's policy is, unless another file is named."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "oneflower" / "site" / "policy.toml"


@dataclass(frozen=True)
class Approved:
    """An app that was approved: its publisher, name and version, its content hash, and who approved it when."""

    app: str
    content: str
    by: str
    at: str


class SiteFolder:
    """The policy in the file `path`, and what belongs to it in the same folder."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_policy()
        self._folder = self.path.parent

    def text(self) -> str:
        """Return the one text for a machine. Raises `OneflowerError` if something in it is not valid."""
        try:
            own = self.path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise OneflowerError(
                f"There is no policy {self.path}.",
                "Write one with `oneflower policy example > policy.toml`, and change it.",
                ExitCode.NOT_FOUND,
            ) from error
        except (OSError, ValueError) as error:
            raise OneflowerError(f"{self.path} cannot be read: {error}.", "", ExitCode.ENVIRONMENT) from error
        signers = [signer.line for signer in self.signers()]
        approved = [one.content for one in self.approved()]
        try:
            said = tomllib.loads(own)
        except tomllib.TOMLDecodeError:
            said = {}
        if not (signers or approved) or not all(isinstance(said.get(key, []), list) for key in ("signers", "hashes")):
            return SitePolicy.parse(own).text
        said["signers"] = [*said.get("signers", []), *signers]
        said["hashes"] = [*said.get("hashes", []), *approved]
        return SitePolicy.parse(tomli_w.dumps(said)).text

    def setting(self) -> dict[str, str]:
        """Return the variable that brings the policy to a machine. Raises `OneflowerError`."""
        return {"FL_SITE_POLICY": base64.b64encode(self.text().encode()).decode()}

    def signers(self) -> list[Signer]:
        """Return the signers in the file beside the policy. Raises `OneflowerError`."""
        path = self._folder / _SIGNERS
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
            if line.strip() and not line.startswith("#"):
                try:
                    found.append(Signer.parse(line))
                except SignatureError as error:
                    raise OneflowerError(f"{path}, line {number}: {error}.", "Change or remove the line.") from error
        return found

    def trust(self, line: str) -> Signer:
        """Add a signer. Raises `OneflowerError` if the line is not valid, or the key is there under another name."""
        try:
            signer = Signer.parse(line)
        except SignatureError as error:
            raise OneflowerError(f"Not a signer: {error}.", "Give a name and the file of a public key.") from error
        known = self.signers()
        if other := next((one for one in known if one.key == signer.key and one.name != signer.name), None):
            raise OneflowerError(f"This is the key of {other.name}, who is trusted already.", "", ExitCode.CONFLICT)
        self._write([*(one for one in known if one.key != signer.key), signer])
        return signer

    def distrust(self, name: str) -> int:
        """Remove all keys of a signer, and return how many. Raises `OneflowerError` if there is none."""
        known = self.signers()
        left = [one for one in known if one.name != name]
        if len(left) == len(known):
            raise OneflowerError(f"No signer is called {name!r}.", "See `oneflower trust ls`.", ExitCode.NOT_FOUND)
        self._write(left)
        return len(known) - len(left)

    def _write(self, signers: list[Signer]) -> None:
        private_directory(self._folder)
        write_atomic(self._folder / _SIGNERS, "".join(f"{one.line}\n" for one in signers), SHARED)

    def approved(self) -> list[Approved]:
        """Return the apps that were approved, the last at the end. Raises `OneflowerError`."""
        path = self._folder / _APPROVED
        try:
            return [Approved(**said) for said in json.loads(path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise OneflowerError(f"{path} cannot be read: {error}.", "Approve the apps again.") from error

    def approve(self, bundle: Bundle) -> Approved:
        """Remember that an app is approved, with its bundle, so that a later one can be compared with it."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        one = Approved(bundle.label, bundle.content_hash, person(), now)
        write_atomic(private_directory(self._folder / _BUNDLES) / f"{one.content}.fab", bundle.packed)
        others = [asdict(other) for other in self.approved() if other.content != one.content]
        write_atomic(self._folder / _APPROVED, json.dumps([*others, asdict(one)], indent=1) + "\n", SHARED)
        return one

    def before(self, bundle: Bundle) -> Bundle | None:
        """Return the last approved bundle of the same publisher and name. Raises `BundleError` if it was damaged."""
        app = bundle.label.rpartition(" ")[0]
        for one in reversed(self.approved()):
            path = self._folder / _BUNDLES / f"{one.content}.fab"
            if one.app.rpartition(" ")[0] == app and path.exists():
                return Bundle.read(path.read_bytes())
        return None


def differences(old: Bundle | None, new: Bundle) -> list[tuple[str, str]]:
    """Return each file of an app with how it is: added, changed, removed or same."""
    before = hashes(old.files) if old else {}
    after = hashes(new.files)
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            how = "added"
        elif name not in after:
            how = "removed"
        else:
            how = "same" if before[name] == after[name] else "changed"
        found.append((name, how))
    return found


def changed_lines(old: Bundle, new: Bundle) -> Iterator[str]:
    """Yield what changed from one bundle to another, as a unified difference."""
    count = 0
    for name in sorted({*old.files, *new.files} - {SIGNATURE}):
        before, after = (_lines(bundle, name) for bundle in (old, new))
        for line in difflib.unified_diff(before, after, f"approved/{name}", f"new/{name}", lineterm=""):
            count += 1
            if count > _MOST_LINES:
                yield "... and more"
                return
            yield line


def _lines(bundle: Bundle, name: str) -> list[str]:
    content = bundle.files.get(name, b"")
    if name == PROJECT and content:
        content = tomli_w.dumps(project(bundle.files)).encode()
    return content.decode(errors="replace").splitlines()
