"""Registers a federation's templates on a cloud: VM templates for both roles, their images, the service template."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.cloud.reconcile import Change, digests, reconcile
from oneflower.cloud.refused import RefusedError
from oneflower.cloud.registered import find_document
from oneflower.opennebula import (
    COORDINATOR,
    NAME,
    NODES,
    Rendering,
    ServiceOptions,
    VmOptions,
    lint_vm_template,
    render,
    service_template,
    vm_template,
)
from oneflower.opennebula.states import ImageState
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.image_source import ImageSource

# Where the digests of what was registered are kept: in each service template its own, and in that of the three levels
# those of the VM templates, too, whose own attributes would be copied into every VM.
_SECTION, _SERVICE = "oneflower", "service"
_IMAGE_READY = (ImageState.READY, ImageState.USED, ImageState.USED_PERS)
_IMAGE_LIMIT = 3600.0
_FAILED = 500  # what the core says of a path that it cannot read, among other things
_PULSE = 0.5
# Which attributes of a VM template an option decides; an operator who leaves it out leaves them as they are.
_DECIDES = {"cpu": ("CPU", "VCPU"), "memory": ("MEMORY",), "network": ("NIC", "NIC_DEFAULT"), "image": ("DISK", "OS"),
            "gpu": ("PCI",)}  # fmt: skip
NONE = "none"
_TO_BE = "(new)"  # the id of what a dry run would create


@dataclass(frozen=True)
class Wishes:
    """What an operator wants registered, and under which name. Networks and images are given by name, too.

    What is left open stays as it is registered.
    """

    name: str = NAME
    machines: Mapping[str, VmOptions] = field(default_factory=dict)
    images: Mapping[str, ImageSource] = field(default_factory=dict)
    datastore: str = "default"
    bounds: Bounds | None = None
    cooldown: int | None = None

    def vm_template_name(self, role: str) -> str:
        """Return the name of a role's VM template."""
        return f"{self.name}-{role}"


@dataclass(frozen=True)
class Registered:
    """What is registered now: ids, and what was changed for it.

    `form` is the service template with the form, None on OpenNebula 6. The machines of `diskless` roles have nothing to
    boot from. The VM templates of `asking` roles ask for inputs themselves, so that Sunstone cannot deploy.
    """

    template: int
    form: int | None
    vm_templates: Mapping[str, int]
    changes: tuple[Change, ...]
    diskless: tuple[str, ...] = ()
    asking: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stored:
    """A service template as it is stored: its id, or None, its content, and the digests of what was registered last."""

    number: int | None
    content: dict[str, Any]
    base: dict[str, dict[str, str]]

    @classmethod
    def find(cls, cloud: Cloud, name: str) -> _Stored:
        document = find_document(cloud, name)
        if document is None:
            return cls(None, {}, {})
        content = dict(document["TEMPLATE"]["BODY"])
        return cls(int(document["ID"]), content, content.pop(_SECTION, {}))


class Registration:
    """Compares what is registered on a cloud with what is wanted, and brings it up to date.

    With `dry_run` nothing is changed: ids of what would be created are -1. Raises `OneflowerError`.
    """

    def __init__(
        self,
        cloud: Cloud,
        wishes: Wishes,
        *,
        force: bool = False,
        dry_run: bool = False,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cloud = cloud
        self._wishes = wishes
        self._force = force
        self._dry_run = dry_run
        self._notify = notify
        self._stored = {each: _Stored.find(cloud, each.template_name(wishes.name)) for each in Rendering}
        self._fresh: dict[str, dict[str, str]] = {}
        self._changes: list[Change] = []
        self._diskless: list[str] = []
        self._asking: list[str] = []
        self._created: list[tuple[str, Callable[[], None]]] = []

    def apply(self) -> Registered:
        """Apply it. If something fails on the way, what was newly created is removed again."""
        self._check()
        try:
            ids = {role: self._vm_template(role) for role in (COORDINATOR, NODES)}
            compat = 6 if self._cloud.core.version()[:1] == (6,) else 7
            template = self._service_template(Rendering.LEVELS, ids, compat)
            form = None if compat == 6 else self._service_template(Rendering.FORM, ids, compat)
        except BaseException:
            self._undo()
            raise
        return Registered(template, form, ids, tuple(self._changes), tuple(self._diskless), tuple(self._asking))

    def _check(self) -> None:
        if self._wishes.name.endswith(Rendering.FORM.template_name("")):
            raise OneflowerError(
                f"{self._wishes.name!r} is the name of a form: {Rendering.FORM.template_name('NAME')} belongs to NAME.",
                "Choose another --name.",
            )
        for source in self._wishes.images.values():
            source.check()
        networks = {options.network for options in self._wishes.machines.values() if options.network} - {NONE}
        for network in networks:
            _need("virtual network", network, self._cloud.core.networks())
        for options in self._wishes.machines.values():
            if options.image not in ("", NONE):
                _need("image", options.image, self._cloud.core.images())
        if self._wishes.images:
            _need("datastore", self._wishes.datastore, self._cloud.core.datastores())

    def _undo(self) -> None:
        for what, remove in reversed(self._created):
            try:
                remove()
                self._notify(f"removed again: {what}")
            except OneflowerError as error:
                self._notify(f"left behind: {what}, which could not be removed: {error.message}")

    def _image(self, role: str) -> str:
        """Return the id of a role's image, registering it if necessary; empty or `none` if none is chosen."""
        source = self._wishes.images.get(role)
        if source is None:
            name = self._wishes.machines.get(role, VmOptions()).image
            return name if name in ("", NONE) else str(self._cloud.core.images()[name])
        name = source.name(self._wishes.vm_template_name(role))
        known = self._cloud.core.images()
        if name in known:
            return str(known[name])
        self._changes.append(Change("create", f"image {name} from {source.source}"))
        if self._dry_run:
            return _TO_BE
        self._notify(f"image {name}: OpenNebula copies {source.source}, which takes a while")
        datastore = self._cloud.core.datastores()[self._wishes.datastore]
        try:
            number = self._cloud.core.create_image(source.template(name), datastore)
        except RefusedError as error:
            if error.status != _FAILED:
                raise
            raise _not_made(name, error.text) from error
        self._created.append((f"image {name}", lambda: self._cloud.core.delete_image(number)))
        self._wait_for_image(number, name)
        return str(number)

    def _network(self, role: str) -> str:
        """Return the id of a role's network; empty or `none` if none is chosen."""
        name = self._wishes.machines.get(role, VmOptions()).network
        return name if name in ("", NONE) else str(self._cloud.core.networks()[name])

    def _wait_for_image(self, number: int, name: str) -> None:
        deadline = time.monotonic() + _IMAGE_LIMIT
        while True:
            state, error = self._cloud.core.image(number)
            if state in _IMAGE_READY:
                return
            if state == ImageState.ERROR:
                raise _not_made(name, error or "no reason given")
            if time.monotonic() > deadline:
                raise OneflowerError(f"The image {name} is not ready after an hour.", "", ExitCode.TIMEOUT)
            time.sleep(_PULSE)

    def _vm_template(self, role: str) -> int:
        name = self._wishes.vm_template_name(role)
        options = self._wishes.machines.get(role, VmOptions())
        image = self._image(role)
        given = {"network": self._network(role), "image": image, "gpu": options.gpu}
        chosen = {option: value for option, value in given.items() if value != NONE}
        ours = vm_template(role, VmOptions(options.cpu, options.memory, **chosen))
        number = self._cloud.core.vm_templates().get(name)
        if number is None:
            self._note_disk(role, ours)
            self._fresh[role] = digests(ours)
            self._changes.append(Change("create", f"VM template {name}"))
            if self._dry_run:
                return -1
            number = self._cloud.core.create_vm_template(render({"NAME": name, **ours}))
            self._created.append((f"VM template {name}", lambda: self._cloud.core.delete_vm_template(number)))
            return number
        theirs = self._cloud.core.vm_template(number) or {}
        decided = {"cpu": options.cpu, "memory": options.memory, **given}
        open_ = [(key,) for option, keys in _DECIDES.items() if not decided[option] for key in keys]
        base = self._stored[Rendering.LEVELS].base.get(role, {})
        outcome = reconcile(f"VM template {name}", base, theirs, ours, undecided=open_, force=self._force)
        self._changes += outcome.changes
        self._fresh[role] = dict(outcome.base)
        self._note_disk(role, outcome.content)
        if lint_vm_template(outcome.content):
            self._asking.append(role)
        if not self._dry_run and outcome.content != theirs:
            self._cloud.core.update_vm_template(number, render(outcome.content))
        return number

    def _note_disk(self, role: str, content: Mapping[str, Any]) -> None:
        if "DISK" not in content:
            self._diskless.append(role)

    def _service_template(self, rendering: Rendering, ids: Mapping[str, int], compat: int) -> int:
        wishes, stored = self._wishes, self._stored[rendering]
        name = rendering.template_name(wishes.name)
        cooldown = ServiceOptions.cooldown if wishes.cooldown is None else wishes.cooldown
        ours = service_template(ServiceOptions(name, wishes.bounds or Bounds(), cooldown, compat, ids, rendering))
        machines = self._fresh if rendering is Rendering.LEVELS else {}
        if stored.number is None:
            self._changes.append(Change("create", f"service template {name}"))
            return -1 if self._dry_run else self._create(name, ours, machines | {_SERVICE: digests(ours)})
        scaling = [("roles", f"[{NODES}]", key) for key in ("cardinality", "min_vms", "max_vms")]
        open_ = [] if wishes.bounds else scaling
        if wishes.cooldown is None:
            open_ += [("roles", f"[{role}]", "cooldown") for role in (COORDINATOR, NODES)]
        base = stored.base.get(_SERVICE, {})
        what = f"service template {name}"
        outcome = reconcile(what, base, stored.content, ours, undecided=open_, force=self._force)
        self._changes += outcome.changes
        fresh = machines | {_SERVICE: dict(outcome.base)}
        if not self._dry_run and (outcome.content != stored.content or fresh != stored.base):
            self._cloud.oneflow.update_service_template(stored.number, outcome.content | {_SECTION: fresh})
        return stored.number

    def _create(self, name: str, content: dict[str, Any], section: Mapping[str, Mapping[str, str]]) -> int:
        number = self._cloud.oneflow.create_service_template(content | {_SECTION: section})
        self._created.append((f"service template {name}", lambda: self._cloud.oneflow.delete_service_template(number)))
        return number


def _not_made(image: str, reason: str) -> OneflowerError:
    return OneflowerError(
        f"OpenNebula could not create the image {image}: {reason.rstrip('.')}.",
        "The path must be on its front-end, where OpenNebula can read it, in a folder that the datastore allows "
        "(SAFE_DIRS).",
        ExitCode.CLOUD,
    )


def _need(what: str, name: str, known: Mapping[str, int]) -> None:
    if name not in known:
        raise OneflowerError(
            f"There is no {what} called {name!r}, or none that you may use.",
            f"There are: {', '.join(sorted(known)) or 'none'}.",
            ExitCode.NOT_FOUND,
        )
