"""What differs between the two clouds beside their addresses: the local cloud, and OpenNebula."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud import Cloud, Endpoints, FederationStatus
from oneflower.cloud.surroundings import Installed
from oneflower.cloud.tunnel import SshOptions, make_key, tunnel
from oneflower.contexts import Context
from oneflower.opennebula import NAME, ServiceKind
from oneflower_appliance.audit import FOLDER as AUDIT
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import no_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from oneflower.local.console import Console
    from oneflower.local.daemon import Daemon
    from oneflower.local.home import LocalHome
    from oneflower.runtimes.app_packages import AppPackages
    from oneflower_appliance.app_packages import Declaration

_OTHERWISE = "Choose another ML_FRAMEWORK for the federation, or remove the dependency from the app."


class _Runtimes:
    """What both sides have in common: `flwr` comes from a runtime of this machine."""

    home: LocalHome
    """The folder with the runtimes, and the state folder of this side."""

    def flwr(self, version: str, framework: str, tell: Callable[[str], None]) -> tuple[Path, Mapping[str, str]]:
        """Return the `flwr` command of a release, and the packages that the machines have: releases by name."""
        from oneflower.runtimes import runtime  # noqa: PLC0415

        found = runtime.ensure(self.home.runtimes, version, framework, tell)
        return found.bin / "flwr", found.packages()

    def needs(self, status: FederationStatus, package: str) -> Sequence[str]:
        """Return what a package that the machines have needs, with its extras: lines of its metadata."""
        from oneflower.runtimes import runtime  # noqa: PLC0415

        return runtime.ensure(self.home.runtimes, status.version, status.framework).needs(package)

    def installed(self, status: FederationStatus) -> Installed:
        """Return the packages that the machines have: those of the pinned list, as they were put into the image."""
        from oneflower.images import wheels  # noqa: PLC0415
        from oneflower.images.spec import LEFT_OUT  # noqa: PLC0415
        from oneflower.runtimes import runtime  # noqa: PLC0415

        if not runtime.is_pinned(status.version, status.framework):
            return Installed({})
        pins = wheels.pins(status.version, status.framework)
        return Installed({name: release for name, release in pins.items() if name not in LEFT_OUT})

    def app_packages(self, _status: FederationStatus, _app: Path, _declaration: Declaration) -> Mapping[str, str]:
        """Return nothing: what machines that boot an image have is in the image."""
        return {}

    def install(self, status: FederationStatus, _app: Path, declaration: Declaration, missing: Sequence[str]) -> None:
        """Refuse to install: machines that boot an image are not changed for an app."""
        raise OneflowerError(
            f"{', '.join(missing)} cannot be installed for the app {declaration.app}: the machines of {status.name} "
            "boot an image.",
            self.remedy(),
        )

    def remedy(self) -> str:
        """Return how machines get packages that an app needs and they lack."""
        return (
            "Build an image that has them (`oneflower image build --app DIR`), or have machines install them when they "
            f"boot (`oneflower bundle DIR`, then FL_PACKAGES): docs/apps.md. {_OTHERWISE}"
        )

    def pins(self) -> Path:
        """Return the folder for pins: what a SuperLink without a proof published at the first connection."""
        return self.home.state / "pins"

    def audit(self) -> Path:
        """Return the folder of the operator's audit log."""
        return audit_of(self.home)


class LocalSurroundings(_Runtimes):
    """The side of a local cloud. `name` is that of the service template."""

    def __init__(self, name: str = NAME, home: LocalHome | None = None) -> None:
        self._name = name
        self.home = home or home_of(Context())

    def template(self, cloud: Cloud) -> int:
        """Return the id of the service template, registering it if necessary: this cloud is the user's own."""
        from oneflower.cloud.register import Registration  # noqa: PLC0415
        from oneflower.cloud.registered import find_registered  # noqa: PLC0415
        from oneflower.cloud.wishes import Wishes  # noqa: PLC0415

        if self._image():
            self.provide_ssh_key(cloud)
        own = {kind.template_name(NAME): kind for kind in ServiceKind}
        kind = own.get(self._name, ServiceKind.FEDERATION)
        done = Registration(cloud, Wishes(kinds=(kind,))).apply()
        return done.templates[kind] if self._name in own else find_registered(cloud, self._name)[0]

    def prepare(self, version: str, framework: str, tell: Callable[[str], None]) -> None:
        """Build the runtime that the machines will boot from, if it is not there yet and they need one."""
        from oneflower.runtimes import runtime  # noqa: PLC0415

        if self._image():
            return
        runtime.ensure(self.home.runtimes, version, framework, tell)

    @contextmanager
    def reach(self, status: FederationStatus) -> Iterator[str]:
        """Yield the address of the Control API. A process's loopback is this machine's; others have their own."""
        if not self._image():
            yield status.control
            return
        with tunnel(status, self._ssh()) as address:
            yield address

    def _ssh(self) -> SshOptions:
        chosen, ours = SshOptions.of_environment(), self.home.ssh_key
        return replace(chosen, key=ours) if chosen.key is None and ours.exists() else chosen

    def installed(self, status: FederationStatus) -> Installed:
        """Return the packages of the runtime, and those that were installed for apps on top of it."""
        from oneflower.runtimes import runtime  # noqa: PLC0415
        from oneflower.runtimes.app_packages import installed_for_apps  # noqa: PLC0415

        pinned = super().installed(status)
        if self._image() or not pinned.variant:
            return pinned
        found = runtime.find(self.home.runtimes, status.version, status.framework)
        return Installed(found.packages(), installed_for_apps(found)) if found else pinned

    def app_packages(self, status: FederationStatus, app: Path, declaration: Declaration) -> Mapping[str, str]:
        """Return the packages that were installed for this app alone, on top of the runtime of process trees."""
        return {} if self._image() else self._packages_for(status, app, declaration).installed()

    def install(self, status: FederationStatus, app: Path, declaration: Declaration, missing: Sequence[str]) -> None:
        """Install what an app needs for these lines of its dependencies, for this app alone."""
        if self._image():
            super().install(status, app, declaration, missing)
        self._packages_for(status, app, declaration).install(missing)

    def _packages_for(self, status: FederationStatus, app: Path, declaration: Declaration) -> AppPackages:
        from oneflower.runtimes import runtime  # noqa: PLC0415
        from oneflower.runtimes.app_packages import AppPackages  # noqa: PLC0415

        found = runtime.ensure(self.home.runtimes, status.version, status.framework)
        return AppPackages(found, app, declaration, status.packages)

    def remedy(self) -> str:
        """Return how machines get packages that an app needs and they lack."""
        if self._image():
            return super().remedy()
        how = "Add `--install` to install what is missing, for this app alone, from the package index that uv uses."
        return f"{how} {_OTHERWISE}"

    def _image(self) -> str:
        """Return the image that the machines boot from, or an empty text if they are process trees."""
        from oneflower.local import daemon  # noqa: PLC0415

        found = daemon.find(self.home)
        return (found and found.image) or ""

    def provide_ssh_key(self, cloud: Cloud) -> None:
        """Give the machines that will boot a key to log in with, unless the user has set one."""
        if cloud.core.own_settings().get("SSH_PUBLIC_KEY"):
            return
        cloud.core.set_user_attribute("SSH_PUBLIC_KEY", make_key(self.home.ssh_key))

    def trouble(self) -> str:
        """Return a sentence if the disk is full on which machines and daemon keep their files."""
        return no_room(self.home.state)

    def held(self, vm: int, content: str) -> bytes | None:
        """Return the bundle of an app that waits on a machine."""
        return self.home.held(vm, content)

    def console(self, vm: int, lines: int) -> list[str]:
        """Return the last lines of a machine's console."""
        return self.tail(vm).last(lines)

    def tail(self, vm: int) -> Console:
        """Return a machine's console, to follow it."""
        from oneflower.local.console import Console  # noqa: PLC0415

        return Console(self.home.console(vm))

    def journal(self, ip: str) -> str:
        """Return nothing for a process tree, whose console has all. A machine that boots an image keeps a journal."""
        return self._ssh().journal(ip) if self._image() else ""

    def revive(self) -> Endpoints | None:
        """Restart the daemon if it has ended."""
        from oneflower.local import daemon  # noqa: PLC0415

        return None if daemon.find(self.home) else endpoints_of(daemon.connect(self.home))

    def when_unreachable(self, _variable: str) -> str:
        """Return how to see whether the daemon runs."""
        return f"Run it again; `oneflower local status` tells whether the daemon runs, and its log is {self.home.log}."


class OpenNebulaSurroundings(_Runtimes):
    """OpenNebula's side. `name` is that of the service template that an operator registered."""

    def __init__(self, name: str, ssh: SshOptions) -> None:
        self._name = name
        self._ssh = ssh
        self.home = home_of(Context())

    def template(self, cloud: Cloud) -> int:
        """Return the id of the registered service template."""
        from oneflower.cloud.registered import find_registered  # noqa: PLC0415

        return find_registered(cloud, self._name)[0]

    def trouble(self) -> str:
        """Return nothing: the state of OpenNebula's machines is not visible from here."""
        return ""

    def prepare(self, version: str, framework: str, tell: Callable[[str], None]) -> None:
        """Do nothing: the machines boot from images."""

    @contextmanager
    def reach(self, status: FederationStatus) -> Iterator[str]:
        """Open an SSH tunnel and yield its address."""
        with tunnel(status, self._ssh) as address:
            yield address

    def held(self, _vm: int, _content: str) -> None:
        """Return nothing: the files of an OpenNebula's machines cannot be read."""

    def console(self, _vm: int, _lines: int) -> list[str]:
        """Return nothing: OpenNebula keeps no console log."""
        return []

    def tail(self, _vm: int) -> None:
        """Return nothing: OpenNebula keeps no console log."""

    def journal(self, ip: str) -> str:
        """Return how to read the machine's journal."""
        return self._ssh.journal(ip)

    def revive(self) -> None:
        """Do nothing: only its operator starts OpenNebula."""

    def when_unreachable(self, variable: str) -> str:
        """Return what to check."""
        return f"Check the address ({variable}) and that the server runs."


def audit_of(home: LocalHome) -> Path:
    """Return the folder of the operator's audit log."""
    return home.state / AUDIT


def home_of(context: Context) -> LocalHome:
    """Return the folders of a local cloud. All clouds of a user have one cache."""
    from oneflower.local.home import LocalHome  # noqa: PLC0415 - costs time that --help need not spend

    own = LocalHome.of_user()
    return replace(own, state=Path(context.home)) if context.home else own


def endpoints_of(found: Daemon) -> Endpoints:
    """Return the addresses of a local cloud whose daemon runs."""
    return Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True)
