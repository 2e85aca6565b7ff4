"""Packages for one app, installed on top of a runtime that lacks them.

uv resolves what the app asks for with every package of the runtime fixed at its release, and installs what is new into
a folder that is named by its content. The runtime itself does not change, and no other app sees the packages. Only
wheels are installed, and only with a known hash: that of the app's uv.lock if it has one, else that of the package
index at the time when it was resolved.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from oneflower.runtimes.cache import note_use, using
from oneflower.runtimes.runtime import installed
from oneflower.runtimes.uv import Uv, wheels_only
from oneflower_appliance.app_packages import Choice, choices, packages_name, packages_of, release_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from oneflower.runtimes.runtime import Runtime
    from oneflower_appliance.app_packages import Declaration

_PYPROJECT, _LOCK = "pyproject.toml", "uv.lock"
_HINT = (
    "Each package needs a wheel for this machine, and must fit the releases that the machines have, which count as "
    "required. Change the line in the app's pyproject.toml. If the package index cannot be reached, retry."
)
_LOCK_HINT = " If the app's uv.lock is older than its pyproject.toml, run `uv lock`."


@dataclass(frozen=True)
class AppPackages:
    """The packages of one app, which is in `folder`, on top of a runtime.

    `added` are the releases of what machines have besides (FL_PACKAGES), by name. A task finds these first.
    """

    runtime: Runtime
    folder: Path
    declaration: Declaration
    added: Mapping[str, str] = field(default_factory=dict)

    def installed(self) -> dict[str, str]:
        """Return the releases of the packages that were installed for the app, by name; none if it has none.

        None counts either if the app's uv.lock has changed since, or if the machines have another release of one.
        """
        with using(self.runtime.app_packages.parents[1]):
            choice = Choice.read(self._choice)
            found = packages_of(self.runtime.app_packages, self.declaration)
            if found:
                note_use(found)
        if not found or not choice or choice.lock != self._lock_hash():
            return {}
        packages = installed(found)
        return packages if all(self.added.get(name, release) == release for name, release in packages.items()) else {}

    def install(self, missing: Sequence[str]) -> None:
        """Install what the app needs for these lines of its dependencies. Raises `OneflowerError`."""
        self._refuse_urls(missing)
        private_directory(self.runtime.app_packages)
        with _staging(self.runtime.app_packages) as staging:
            lock_hash = self._lock_hash()
            locked = self._locked(staging / "app") if lock_hash else {}
            listed = self._resolved(staging, missing, locked)
            target = self.runtime.app_packages / packages_name(listed)
            if not target.exists():
                self._fetch(staging, listed, target)
            with using(self.runtime.app_packages.parents[1]):
                note_use(target)
                Choice(self.declaration.app, target.name, lock_hash).write(self._choice)

    @property
    def _choice(self) -> Path:
        return self.declaration.file(self.runtime.app_packages)

    def _lock_hash(self) -> str:
        try:
            return hashlib.sha256((self.folder / _LOCK).read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""

    def _refuse_urls(self, lines: Iterable[str]) -> None:
        for package in map(Requirement, lines):
            if package.url:
                raise OneflowerError(
                    f"The app {self.declaration.app} takes {package.name} from {package.url}, which is not installed.",
                    "Packages come from the package index only. Name a release of it in the app's pyproject.toml.",
                )

    def _uv(self, folder: Path, what: str) -> Uv:
        hint = _HINT + (_LOCK_HINT if self._lock_hash() else "")
        return Uv(folder, f"{what} the packages that the app {self.declaration.app} needs", hint)

    def _locked(self, folder: Path) -> dict[str, str]:
        """Return the packages in the app's uv.lock that the runtime lacks: what is to be installed of each, by name.

        It is copied to a folder of its own, because the settings of its project could name another index.
        """
        private_directory(folder)
        for name in (_PYPROJECT, _LOCK):
            shutil.copyfile(self.folder / name, folder / name)
        only = ("--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate", "--no-config")
        found = _blocks(
            self._uv(folder, "read the uv.lock with")("export", *only, "--python", str(self.runtime.python))
        )
        have = self.runtime.packages()
        lacking = {name: block for name, block in found.items() if name not in have}
        self._refuse_urls(map(_first_line, lacking.values()))
        return lacking

    def _resolved(self, staging: Path, missing: Sequence[str], locked: Mapping[str, str]) -> str:
        """Return the list of packages that the runtime lacks, each with its hashes."""
        have = self.runtime.packages()
        fixed = [f"{name}=={release}" for name, release in {**self.added, **have}.items()]
        fixed += [_first_line(block) for block in locked.values()]
        write_atomic(staging / "constraints.txt", "\n".join(fixed) + "\n")
        write_atomic(staging / "requirements.txt", "\n".join(missing) + "\n")
        found = _blocks(
            self._uv(staging, "find")(
                "pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", *wheels_only(),
                "--python", str(self.runtime.python), "--constraint", "constraints.txt", "requirements.txt",
            )
        )  # fmt: skip
        new = {name: block for name, block in found.items() if release_of(name, have) is None}
        if locked and (unlocked := sorted(set(new) - set(locked))):
            raise OneflowerError(
                f"The uv.lock of the app {self.declaration.app} does not have {', '.join(unlocked)}.",
                "Run `uv lock` in the app's folder.",
            )
        return "".join(f"{locked.get(name, block)}\n" for name, block in sorted(new.items()))

    def _fetch(self, staging: Path, listed: str, target: Path) -> None:
        """Install a list of packages into a new folder."""
        write_atomic(staging / "list.txt", listed)
        new = private_directory(staging / "packages")
        self._uv(staging, "install")(
            "pip", "install", "--python", str(self.runtime.python), "--target", str(new), "--no-deps",
            "--require-hashes", "--compile-bytecode", *wheels_only(), "--requirement", "list.txt",
        )  # fmt: skip
        try:
            new.rename(target)
        except OSError as error:
            if not target.exists():  # else another command has just installed the same
                raise _unwritable(target, error) from error


def installed_for_apps(runtime: Runtime) -> dict[str, dict[str, str]]:
    """Return what was installed for each app on top of a runtime: releases by name, by the name of the app."""
    folder = runtime.app_packages
    return {choice.app: installed(folder / choice.packages) for choice in choices(folder)}


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    try:
        staging = tempfile.mkdtemp(prefix=".new-", dir=folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield Path(staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> OneflowerError:
    return OneflowerError(f"Cannot write {path}: {error.strerror}.", "Free some disk space.", ExitCode.ENVIRONMENT)


def _blocks(listed: str) -> dict[str, str]:
    """Return the packages of a list that count here, each with the lines of its hashes, by normalised name."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", listed.strip()):
        if not block or block[0] in "-.":  # a folder: of the app's own project, or of another beside it
            continue
        package = Requirement(_first_line(block))
        if package.marker is None or package.marker.evaluate():
            found[canonicalize_name(package.name)] = block
    return found


def _first_line(block: str) -> str:
    return block.splitlines()[0].rstrip(" \\")
