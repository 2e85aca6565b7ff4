"""Registers a federation's templates on a cloud: VM templates for both roles, their images, the service template."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oneflower.cloud.audit import audited
from oneflower.cloud.image_store import ImageStore
from oneflower.cloud.machine import NONE, Machine, is_size
from oneflower.cloud.reconcile import Change, digests, reconcile
from oneflower.cloud.registered import SECTION, Document, template_names
from oneflower.cloud.sharing import group_id, share
from oneflower.cloud.undo import Undo
from oneflower.cloud.vm_templates import VmTemplates, Wanted
from oneflower.cloud.wishes import Registered, Wishes
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    Carried,
    Policies,
    Rendering,
    ServiceKind,
    ServiceOptions,
    VmOptions,
    service_template,
)
from oneflower.opennebula.autoscale import ELASTIC, SCHEDULED
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.image_source import ImageSource, Stored
    from oneflower.cloud.objects import Image
    from oneflower.cloud.vm_templates import Settled

_SERVICE = "service"


def register(
    cloud: Cloud,
    wishes: Wishes,
    *,
    force: bool = False,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Registered:
    """Bring what is registered up to date (`Registration`), and record that in the operator's audit log.

    Raises `OneflowerError`.
    """
    if dry_run:
        return Registration(cloud, wishes, force=force, dry_run=True, notify=notify).apply()
    images = ", ".join(sorted({source.name(wishes.name, role) for role, source in wishes.images.items()}))
    forced = "YES" if force else ""
    with audited(cloud, "register", "", template=wishes.name, images=images, group=wishes.group, force=forced) as said:
        done = Registration(cloud, wishes, force=force, notify=notify).apply()
        said["changes"] = str(len(done.changes))
    return done


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
        self._stored = {
            (kind, each): Document.find(cloud, each.template_name(kind.template_name(wishes.name)))
            for kind in ServiceKind
            for each in Rendering
        }
        self._undo = Undo(notify)
        self._images = ImageStore(cloud, wishes.name, wishes.datastore, notify, dry_run=dry_run)
        self._templates = VmTemplates(cloud, self._undo, force=force, dry_run=dry_run)
        self._changes: list[Change] = []
        self._carried: dict[str, Carried] = {}
        self._driverless = ""

    def apply(self) -> Registered:
        """Apply it. If something fails on the way, everything is as it was before."""
        self._check()
        try:
            wanted = {role: self._wanted(role) for role in (COORDINATOR, NODES)}  # first everything that takes long
            self._check_releases()
            settled = {role: self._templates.settle(each) for role, each in wanted.items()}
            for each in settled.values():
                self._changes += each.changes
            compat = 6 if self._cloud.core.version()[:1] == (6,) else 7
            numbers = {
                rendering: {kind: self._service_template(kind, rendering, settled, compat) for kind in self._kinds}
                for rendering in (Rendering if compat == 7 else (Rendering.LEVELS,))
            }
        except BaseException:
            self._undo.all()
            raise
        for role in wanted:
            self._changes += self._templates.sweep(self._wishes.vm_template_name(role))
        if self._wishes.group:
            self._changes += self._share(numbers, settled)
        return Registered(
            numbers[Rendering.LEVELS],
            numbers.get(Rendering.FORM, {}),
            {role: each.id for role, each in settled.items()},
            tuple(self._changes),
            tuple(role for role, each in settled.items() if each.diskless),
            tuple(role for role, each in settled.items() if each.asking),
            self._driverless if "PCI" in settled[NODES].content else "",
        )

    @property
    def _kinds(self) -> list[ServiceKind]:
        """The kinds to register, and those that are registered already."""
        there = {kind for (kind, _), stored in self._stored.items() if stored.number is not None}
        return [kind for kind in ServiceKind if kind in self._wishes.kinds or kind in there]

    def _share(
        self, numbers: Mapping[Rendering, Mapping[ServiceKind, int]], settled: Mapping[str, Settled]
    ) -> Iterator[Change]:
        documents = {
            each.template_name(kind.template_name(self._wishes.name)): number
            for each, kinds in numbers.items()
            for kind, number in kinds.items()
        }
        machines = {self._wishes.vm_template_name(role): each.id for role, each in settled.items()}
        return share(self._cloud, self._wishes.group, documents, machines, dry_run=self._dry_run)

    def _check(self) -> None:
        for suffix in filter(None, template_names("")):
            if self._wishes.name.endswith(suffix):
                raise OneflowerError(
                    f"{self._wishes.name!r} cannot be registered: NAME{suffix} is one of the templates of NAME.",
                    "Choose another --name.",
                )
        if self._wishes.group:
            group_id(self._cloud, self._wishes.group)
        self._images.check(*self._wishes.images.values())
        for options in self._wishes.machines.values():
            if options.network not in ("", NONE):
                _need("virtual network", options.network, self._cloud.core.networks())
            for image in (options.image, options.volume):
                if image not in ("", NONE) and not is_size(image):
                    _need("image", image, self._cloud.core.images())
        self._check_volume(self._wishes.machines.get(NODES, VmOptions()).volume)

    def _check_volume(self, name: str) -> None:
        """Raise `OneflowerError` if the SuperNodes would have to share a disk."""
        if any(image.name == name and image.persistent for image in self._cloud.core.every_image() if name):
            raise OneflowerError(
                f"The image {name} is persistent, so only one machine at a time can use it.",
                "Make it non-persistent (`oneimage nonpersistent`): then each SuperNode gets a copy. Or give a size.",
                ExitCode.CONFLICT,
            )

    def _check_releases(self) -> None:
        """Raise `OneflowerError` if the images of the roles have two releases of Flower."""
        releases = {role: carried.flower for role, carried in self._carried.items() if carried.flower}
        if len(set(releases.values())) > 1:
            said = " and ".join(f"{role} {release}" for role, release in sorted(releases.items()))
            raise OneflowerError(
                f"The images have different releases of Flower: {said}.",
                "Register one image for both roles with --image, or two that were built with one --flower-version.",
                ExitCode.CONFLICT,
            )

    def _wanted(self, role: str) -> Wanted:
        """Return the VM template that a role should have. Puts its image there first, if necessary."""
        name = self._wishes.vm_template_name(role)
        options = self._wishes.machines.get(role, VmOptions())
        if options.volume not in ("", NONE) and not is_size(options.volume):
            options = replace(options, volume=str(self._cloud.core.images()[options.volume]))
        machine = Machine(options, self._templates.find(name)[1])
        image = self._image(role, machine)
        network = options.network
        if network not in ("", NONE):
            network = str(self._cloud.core.networks()[network])
        content, undecided = machine.plan(role, image, network, admin=self._cloud.core.is_admin)
        return Wanted(name, content, undecided, self._base(role))

    def _base(self, role: str) -> Mapping[str, str]:
        """Return the digests of a role's VM template as it was registered last. All kinds with the role have them."""
        found = (self._stored[kind, Rendering.LEVELS].base for kind in ServiceKind)
        return next((base[role] for base in found if role in base), {})

    def _image(self, role: str, machine: Machine) -> Stored | None:
        """Return the image that a role's machines will boot, putting it there if necessary; None if there is none."""
        source, chosen = self._wishes.images.get(role), machine.options.image
        found: Stored | None = None
        if source is not None:
            found = self._images.put(source, role, self._begun)
            if found.fresh:
                self._note_fresh(found, source, machine.image)
        elif chosen and chosen != NONE:
            found = self._images.stored(self._cloud.core.images()[chosen])
        elif not chosen and machine.image:
            found = self._images.stored(int(machine.image))
        if found is not None:
            self._carried[role] = found.facts.carried
            if role == NODES and found.facts.no_driver:
                self._driverless = found.name
        return found

    def _begun(self, image: Image) -> None:
        self._undo.created(f"image {image.name}", lambda: self._cloud.core.delete_image(image.id))

    def _note_fresh(self, found: Stored, source: ImageSource, before: str) -> None:
        """Note a new image, once, and which one it replaces. It gets the group and the permissions of that one."""
        change = Change("create", f"image {found.name} from {source.source}")
        if change in self._changes:
            return
        self._changes.append(change)
        old = self._images.stored(int(before)) if before else None
        if old is not None:
            self._changes.append(Change("replace", f"image {old.name}", after=found.name))
            if not self._dry_run:
                self._cloud.core.share_image(int(found.id), int(before))

    def _service_template(
        self, kind: ServiceKind, rendering: Rendering, settled: Mapping[str, Settled], compat: int
    ) -> int:
        wishes, stored = self._wishes, self._stored[kind, rendering]
        name = rendering.template_name(kind.template_name(wishes.name))
        what = f"service template {name}"
        cooldown = ServiceOptions.cooldown if wishes.cooldown is None else wishes.cooldown
        own = {role: each for role, each in settled.items() if role in kind.roles}
        ids, bounds = {role: each.id for role, each in own.items()}, wishes.bounds.get(kind)
        policies = wishes.policies or Policies()
        ours = service_template(
            ServiceOptions(name, bounds, cooldown, compat, ids, rendering, self._offered(), kind, policies)
        )
        machines = {role: dict(each.base) for role, each in own.items()} if rendering is Rendering.LEVELS else {}
        if stored.number is None:
            self._changes.append(Change("create", what))
            return -1 if self._dry_run else self._create(what, ours | {SECTION: machines | {_SERVICE: digests(ours)}})
        scaling = [("roles", f"[{NODES}]", key) for key in ("cardinality", "min_vms", "max_vms")]
        open_ = [] if bounds or NODES not in own else scaling
        if wishes.policies is None and NODES in own:
            open_ += [("roles", f"[{NODES}]", key) for key in (ELASTIC, SCHEDULED)]
        if wishes.cooldown is None:
            open_ += [("roles", f"[{role}]", "cooldown") for role in own]
        base = stored.base.get(_SERVICE, {})
        outcome = reconcile(what, base, stored.content, ours, undecided=open_, force=self._force)
        self._changes += outcome.changes
        fresh = machines | {_SERVICE: dict(outcome.base)}
        if not self._dry_run and (outcome.content != stored.content or fresh != stored.base):
            self._update(what, stored, outcome.content | {SECTION: fresh})
        return stored.number

    def _create(self, what: str, content: dict[str, Any]) -> int:
        number = self._cloud.oneflow.create_service_template(content)
        self._undo.created(what, lambda: self._cloud.oneflow.delete_service_template(number))
        return number

    def _update(self, what: str, stored: Document, content: dict[str, Any]) -> None:
        number, before = stored.number or 0, stored.content | {SECTION: stored.base}
        self._cloud.oneflow.update_service_template(number, content)
        self._undo.changed(what, lambda: self._cloud.oneflow.update_service_template(number, before))

    def _offered(self) -> Carried:
        """Return what the images leave a tenant to choose: the nodes' image counts, which has the framework."""
        return self._carried.get(NODES) or self._carried.get(COORDINATOR) or Carried()


def _need(what: str, name: str, known: Mapping[str, int]) -> None:
    if name not in known:
        raise OneflowerError(
            f"There is no {what} called {name!r}, or none that you may use.",
            f"There are: {', '.join(sorted(known)) or 'none'}.",
            ExitCode.NOT_FOUND,
        )
