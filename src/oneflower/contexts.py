"""Contexts: the clouds that this user knows by a name, in one file, as kubectl has them.

Two local clouds of one user, each with a state folder of its own, can be two sites. So can two OpenNebulas, or two
zones of one. A context names the file with the credentials; it never holds them.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SECTION = "contexts"


class CloudName(StrEnum):
    """The kinds of clouds there are."""

    LOCAL = "local"
    OPENNEBULA = "opennebula"


@dataclass(frozen=True)
class Context:
    """One cloud. The context with an empty `name` is none of the file: the environment says where that cloud is.

    `home` is the state folder of a local cloud. An OpenNebula has the URLs of OneFlow and of XML-RPC, and the file
    `auth` with a line `user:password`.
    """

    name: str = ""
    cloud: CloudName = CloudName.LOCAL
    home: str = ""
    oneflow: str = ""
    xmlrpc: str = ""
    auth: str = ""

    @property
    def label(self) -> str:
        """How it is called where it is shown."""
        return self.name or str(self.cloud)

    @property
    def place(self) -> str:
        """Where its cloud is."""
        return self.home or self.oneflow or "as the environment says"

    def check(self) -> Context:
        """Return it. Raises `OneflowerError` if it is not valid."""
        if not _NAME.fullmatch(self.name):
            raise OneflowerError(f"{self.name!r} cannot be the name of a context.", "Use letters, digits, . _ and -.")
        needed = ("home",) if self.cloud is CloudName.LOCAL else ("oneflow", "xmlrpc", "auth")
        given = {name for name in ("home", "oneflow", "xmlrpc", "auth") if getattr(self, name)}
        if given != set(needed):
            raise OneflowerError(
                f"The context {self.name} of a cloud {self.cloud} needs {', '.join(needed)}, and nothing else.",
                f"It has {', '.join(sorted(given)) or 'none of them'}.",
            )
        for url in filter(None, (self.oneflow, self.xmlrpc)):
            if not url.startswith(("http://", "https://")):
                raise OneflowerError(f"{url!r} is not a URL.", "A URL begins with http:// or https://.")
        for path in filter(None, (self.home, self.auth)):
            if not Path(path).is_absolute():
                raise OneflowerError(f"{path!r} is not an absolute path.", f"Correct the context {self.name}.")
        return self

    def session(self) -> str:
        """Return the line `user:password` of its credentials. Raises `OneflowerError` if others may read them."""
        path = Path(self.auth)
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise OneflowerError(
                    f"Others may read {path}, the credentials of the context {self.name}.",
                    f"Run `chmod 600 {path}`.",
                    ExitCode.CLOUD,
                )
            line = next(iter(path.read_text(encoding="utf-8").splitlines()), "").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OneflowerError(
                f"The credentials of the context {self.name} cannot be read: {error}.", "", ExitCode.CLOUD
            ) from error
        if ":" not in line.strip(":"):
            raise OneflowerError(f"{path} has no line `user:password`.", "Write one there (mode 0600).", ExitCode.CLOUD)
        return line


@dataclass(frozen=True)
class Contexts:
    """The contexts of a file, by name, and the name of the one in use, empty if none is."""

    path: Path
    known: dict[str, Context] = field(default_factory=dict)
    current: str = ""

    @classmethod
    def load(cls, path: Path | None = None) -> Contexts:
        """Read a file, by default this user's. Raises `OneflowerError` if it is not valid or others may change it."""
        import tomllib  # noqa: PLC0415 - costs time that --help need not spend

        chosen = path or default_file()
        try:
            about = chosen.stat()
            if about.st_mode & 0o022 or about.st_uid not in (0, os.geteuid()):
                raise OneflowerError(
                    f"Others may change {chosen}, and so where credentials are sent.",
                    f"Make it yours alone: `chmod 600 {chosen}`.",
                    ExitCode.ENVIRONMENT,
                )
            read = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if path is None:
                return cls(chosen)
            raise OneflowerError(f"There is no file {chosen}.", "", ExitCode.NOT_FOUND) from None
        except (OSError, ValueError) as error:
            raise OneflowerError(f"{chosen} cannot be read: {error}.", "", ExitCode.INVALID_INPUT) from error
        return cls._of(chosen, read)

    @classmethod
    def _of(cls, path: Path, read: dict[str, Any]) -> Contexts:
        section, current = read.pop(_SECTION, {}), read.pop("current", "")
        if read or not isinstance(section, dict) or not isinstance(current, str):
            raise OneflowerError(
                f"{path} is not a file with contexts: {', '.join(sorted(read)) or _SECTION} is not expected there.",
                "It has `current` and a table [contexts.NAME] for each. `oneflower context add` writes it.",
            )
        return cls(path, {name: _context(path, name, entry) for name, entry in section.items()}, current)

    def get(self, name: str) -> Context:
        """Return a context. Raises `OneflowerError` if there is none of that name."""
        if name in self.known:
            return self.known[name]
        raise OneflowerError(
            f"There is no context called {name!r} in {self.path}.",
            f"There are: {', '.join(self.known) or 'none'}. `oneflower context add` adds one.",
            ExitCode.NOT_FOUND,
        )

    def save(self) -> Contexts:
        """Write the file, for this user only, and return the same."""
        import tomli_w  # noqa: PLC0415 - as tomllib

        private_directory(self.path.parent)
        entries = {
            name: {key: str(value) for key, value in asdict(context).items() if value and key != "name"}
            for name, context in self.known.items()
        }
        content = {"current": self.current} if self.current else {}
        write_atomic(self.path, tomli_w.dumps(content | {_SECTION: entries}))
        return self


def _context(path: Path, name: str, entry: Any) -> Context:
    keys = [each for each in Context.__dataclass_fields__ if each != "name"]
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise OneflowerError(
            f"{path}: [{_SECTION}.{name}] is not a table of texts.", f"Its keys are {', '.join(keys)}."
        )
    if odd := sorted(set(entry) - set(keys)):
        raise OneflowerError(
            f"{path}: {', '.join(odd)} of the context {name} is not known.",
            f"The keys are {', '.join(keys)}. Credentials are in the file that `auth` names, never here.",
        )
    if entry.get("cloud") not in list(CloudName):
        raise OneflowerError(f"{path}: the context {name} has no `cloud`.", f"It is one of {', '.join(CloudName)}.")
    return Context(name, **{**entry, "cloud": CloudName(entry["cloud"])}).check()


def default_file() -> Path:
    """Return where this user's contexts are, unless another file is named."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "oneflower" / "clouds.toml"


def choose(contexts: Contexts, name: str, cloud: CloudName | None) -> Context:
    """Return the context to use: the one that is named, or none of the file if only a kind of `cloud` is named.

    Without both, a state folder in the environment (ONEFLOWER_HOME) is a local cloud, and otherwise the context that
    is in use counts. Raises `OneflowerError`.
    """
    if name and cloud is not None and contexts.get(name).cloud is not cloud:
        raise OneflowerError(
            f"The context {name} is a cloud {contexts.get(name).cloud}, not {cloud}.",
            "Leave --cloud (or ONEFLOWER_CLOUD) out: the context says what it is.",
            ExitCode.USAGE,
        )
    if name:
        return contexts.get(name)
    if cloud is not None or os.environ.get("ONEFLOWER_HOME"):
        return Context(cloud=cloud or CloudName.LOCAL)
    return contexts.get(contexts.current) if contexts.current else Context()
