"""The wheels that packages come down to on the machines: what their image lacks, each with its hash.

The machines' runtime stays as it is. So what it has is not among the wheels, and packages that need another release of
it are refused.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from oneflower.images.spec import ARCHITECTURE, GLIBC, LEFT_OUT, PLATFORM, PYTHON
from oneflower.runtimes import runtime
from oneflower.runtimes.uv import Uv, wheels_only
from oneflower_appliance.app_packages import excluded_by, release_of
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HINT = "Check the names and releases of the packages, and that the package registry can be reached. Then try again."
# What markers are evaluated with. Debian's Python of the suite is of this series.
MACHINE = {
    "extra": "", "implementation_name": "cpython", "os_name": "posix", "platform_machine": ARCHITECTURE,
    "platform_python_implementation": "CPython", "platform_system": "Linux", "python_full_version": f"{PYTHON}.2",
    "python_version": PYTHON, "sys_platform": "linux",
}  # fmt: skip


@dataclass(frozen=True)
class Wheel:
    """One wheel: where it comes from (an address, or the path of a file), its SHA-256 digest and its size in bytes."""

    name: str
    version: str
    source: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The name of the file."""
        return unquote(urlsplit(self.source).path).rpartition("/")[2]

    @property
    def line(self) -> str:
        """The package as a list names it."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def pins(flower: str, framework: str) -> dict[str, str]:
    """Return the releases of what machines have: the pinned packages and the appliance. Raises `OneflowerError`."""
    found: dict[str, str] = {"oneflower-appliance": version("oneflower-appliance")}
    for line in runtime.pinned_packages(flower, framework).splitlines():
        if line[:1].isalnum():
            pin = Requirement(line.partition(" \\")[0].partition(" --hash")[0])
            if pin.marker is None or pin.marker.evaluate(MACHINE):
                found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def resolve(wanted: Mapping[str, str], flower: str, framework: str, app: Path | None = None) -> list[Wheel]:
    """Return the wheels for the packages `wanted`: lines as in PEP 508, each with who asks for it.

    If the folder `app` has a uv.lock, it decides which releases and which files.
    Raises `OneflowerError` if there are none, or with the lines that conflict with the packages of the runtime.
    """
    have = pins(flower, framework)
    requirements = [(Requirement(line), who) for line, who in wanted.items()]
    asked = [(each, who) for each, who in requirements if not each.marker or each.marker.evaluate(MACHINE)]
    if away := [f"{each.name} ({who})" for each, who in asked if each.url]:
        raise OneflowerError(
            f"{', '.join(away)} comes from an address of its own, from which nothing is taken.",
            "Packages come from the package registry only. Name a release of it.",
        )
    conflicts = [
        f"{each.name}{each.specifier} ({who}), {found} (Flower {flower} with {framework})"
        for each, who in asked
        if (found := excluded_by(each, have))
    ]
    if conflicts:
        raise OneflowerError(
            "These lines conflict:" + "".join(f"\n  {line}" for line in conflicts),
            "The packages of the runtime stay as they were tested. Change the line, or choose another --framework.",
        )
    lines = [str(each) for each, _ in asked if release_of(canonicalize_name(each.name), have) is None]
    locked = read_lock(app) if app else {}
    with TemporaryDirectory(prefix="oneflower-") as scratch:
        resolved = _compile(Path(scratch), lines, have, locked) if lines else []
    stay = {name: release for name, release in have.items() if name not in LEFT_OUT}
    return [choose(package, locked) for package in resolved if release_of(package["name"], stay) is None]


def _compile(
    scratch: Path, lines: Iterable[str], have: Mapping[str, str], locked: Mapping[str, tuple[str, frozenset[str]]]
) -> list[dict[str, Any]]:
    """Return what uv resolves the lines to, in the format of pylock.toml (PEP 751)."""
    limits = {**have} | {name: release for name, (release, _) in locked.items() if name not in have}
    (scratch / "wanted.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (scratch / "runtime.txt").write_text(
        "".join(f"{n}=={release}\n" for n, release in limits.items()), encoding="utf-8"
    )
    text = Uv(scratch, "find packages that fit the machines", _HINT)(
        "pip", "compile", "--format", "pylock.toml", "--no-header", "--python-version", PYTHON,
        "--python-platform", PLATFORM, *wheels_only(), "--constraint", "runtime.txt", "wanted.txt",
    )  # fmt: skip
    return list(tomllib.loads(text).get("packages", []))


def read_lock(app: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the release and the hashes of each package in an app's uv.lock."""
    path = app / "uv.lock"
    if not path.is_file():
        return {}
    try:
        packages = tomllib.loads(path.read_text(encoding="utf-8")).get("package", [])
    except (OSError, ValueError) as error:
        raise OneflowerError(f"{path} cannot be read: {error}.", "Make it again with `uv lock`.") from error
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for each in packages:
        hashes = frozenset(str(wheel.get("hash", "")).removeprefix("sha256:") for wheel in each.get("wheels", ()))
        if hashes and "version" in each:
            found[canonicalize_name(each["name"])] = each["version"], hashes
    return found


def choose(
    package: Mapping[str, Any], locked: Mapping[str, tuple[str, frozenset[str]]], architecture: str = ARCHITECTURE
) -> Wheel:
    """Return the wheel of a package that fits the machines best. Raises `OneflowerError` when none does."""
    places = ((wheel.get("url") or wheel.get("path", ""), wheel) for wheel in package.get("wheels", ()))
    found = [
        Wheel(
            package["name"], package["version"], place, wheel.get("hashes", {}).get("sha256", ""), wheel.get("size", 0)
        )
        for place, wheel in places
    ]
    ranks = {tag: rank for rank, tag in enumerate(_tags(architecture))}

    def rank(wheel: Wheel) -> int:
        return min((ranks[tag] for tag in parse_wheel_filename(wheel.file)[3] if tag in ranks), default=len(ranks))

    fitting = [wheel for wheel in found if rank(wheel) < len(ranks)]
    if not fitting:
        raise OneflowerError(
            f"{package['name']} {package['version']} has no wheel for Python {PYTHON} on {architecture}.",
            "Nothing is built from source. Choose another release of it.",
        )
    wheel = min(fitting, key=lambda wheel: (rank(wheel), wheel.file))
    _, hashes = locked.get(wheel.name, ("", frozenset((wheel.sha256,))))
    if wheel.sha256 not in hashes:
        raise OneflowerError(
            f"{wheel.file} has another hash in the package registry than in the app's uv.lock.",
            "Someone has replaced the file. If that is right, make the lock again with `uv lock`.",
        )
    return wheel


def _tags(architecture: str) -> Sequence[Any]:
    version = tuple(map(int, PYTHON.split(".")))
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = [
        f"{name}_{architecture}"
        for minor in range(GLIBC, 4, -1)
        for name in (f"manylinux_2_{minor}", old.get(minor))
        if name
    ]
    platforms.append(f"linux_{architecture}")
    interpreter = f"cp{PYTHON.replace('.', '')}"
    return [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]
