"""Commands of an operator: `register` and `unregister`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.scaling_options import NONE as NO_POLICIES
from oneflower.cli.scaling_options import Autoscale, Schedule, When, limits_of
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.opennebula import COORDINATOR, NAME, NODES, Rendering, ServiceKind, VmOptions, is_address
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.scaling import Limits
    from oneflower.cloud.wishes import Registered, Wishes
    from oneflower_appliance.settings import Bounds

Kinds = Annotated[
    list[ServiceKind] | None,
    typer.Option("--kind", help="Only the service templates of this kind; usually of all three. Repeatable."),
]
Name = Annotated[str, typer.Option("--name", help="Name; several can be registered side by side.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
_LINK, _NODE, _SCALING = "The SuperLink's machine", "The SuperNodes' machines", "Scaling"


def register(
    name: Name = NAME,
    kind: Kinds = None,
    image: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE|URL|NAME",
            help="Image for both roles: what `image build` wrote, on the front-end or here; a URL; or the name of an "
            "image in OpenNebula.",
        ),
    ] = "",
    manifest: Annotated[
        str, typer.Option(metavar="FILE|URL", help="The image's .json, if it is not beside the image.")
    ] = "",
    network: Annotated[str, typer.Option(help="Virtual network that both roles are in, by name.")] = "",
    group: Annotated[str, typer.Option(help="Group of tenants that may use it all, by name.")] = "",
    datastore: Annotated[str, typer.Option(help="Datastore for the images, by name.")] = "default",
    superlink_image: Annotated[str, typer.Option(help="Another image than --image.", rich_help_panel=_LINK)] = "",
    superlink_checksum: Annotated[str, typer.Option(help="md5:, sha1: or sha256:HEX.", rich_help_panel=_LINK)] = "",
    superlink_cpu: Annotated[float | None, typer.Option(min=0.1, help="Cores.", rich_help_panel=_LINK)] = None,
    superlink_memory: Annotated[int | None, typer.Option(min=64, help="Megabytes.", rich_help_panel=_LINK)] = None,
    superlink_disk: Annotated[
        int | None, typer.Option(min=1, help="Gigabytes of the system's disk.", rich_help_panel=_LINK)
    ] = None,
    superlink_volume: Annotated[
        str,
        typer.Option(help="Second disk, for checkpoints: an image's name, or a size like 20G.", rich_help_panel=_LINK),
    ] = "",
    supernode_image: Annotated[str, typer.Option(help="Another image than --image.", rich_help_panel=_NODE)] = "",
    supernode_checksum: Annotated[str, typer.Option(help="md5:, sha1: or sha256:HEX.", rich_help_panel=_NODE)] = "",
    supernode_cpu: Annotated[float | None, typer.Option(min=0.1, help="Cores.", rich_help_panel=_NODE)] = None,
    supernode_memory: Annotated[int | None, typer.Option(min=64, help="Megabytes.", rich_help_panel=_NODE)] = None,
    supernode_disk: Annotated[
        int | None, typer.Option(min=1, help="Gigabytes of the system's disk.", rich_help_panel=_NODE)
    ] = None,
    supernode_volume: Annotated[
        str, typer.Option(help="Second disk, for data: an image's name, or a size like 20G.", rich_help_panel=_NODE)
    ] = "",
    gpu: Annotated[
        str,
        typer.Option(
            help="PCI device to pass through: VENDOR:DEVICE[:CLASS] or ADDRESS, with /PROFILE for a vGPU.",
            rich_help_panel=_NODE,
        ),
    ] = "",
    supernodes: Annotated[
        int | None, typer.Option(help="SuperNodes at first; usually 2.", rich_help_panel=_SCALING)
    ] = None,
    min_vms: Annotated[
        int | None, typer.Option(help="Never fewer than this; usually 2.", rich_help_panel=_SCALING)
    ] = None,
    max_vms: Annotated[
        int | None, typer.Option(help="Never more than this; usually 10.", rich_help_panel=_SCALING)
    ] = None,
    autoscale: Autoscale = "",
    when: When = None,
    schedule: Schedule = None,
    cooldown: Annotated[
        int | None,
        typer.Option(min=0, help="Seconds that OneFlow rests after each scaling; usually 5.", rich_help_panel=_SCALING),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also overwrite what was changed by hand.")] = False,
    dry_run: DryRun = False,
    output: Format = Output.TEXT,
) -> None:
    """Register images, VM templates and service templates, or bring them up to date.

    There are templates for federations, for coordinators (NAME-coordinator: a SuperLink) and for sites (NAME-site:
    SuperNodes). Each has all variables on three levels, and beside it (NAME-form) there is the form for Sunstone.
    OpenNebula reads a FILE on its front-end, and downloads a URL from there.
    You can run this again at any time. It changes what differs, and keeps what somebody changed by hand and what an
    earlier run chose and this one does not mention. For an option with a name, `none` removes it again, and
    `--autoscale none` the scaling policies.
    """
    from oneflower.cli.image_option import ImageOption, volume  # noqa: PLC0415
    from oneflower.cloud.register import register as apply  # noqa: PLC0415
    from oneflower.cloud.wishes import Wishes  # noqa: PLC0415

    cloud = Session.cloud()
    chosen = ImageOption(cloud, image, manifest)
    images, named = chosen.of_roles(
        {COORDINATOR: (superlink_image, superlink_checksum), NODES: (supernode_image, supernode_checksum)}
    )
    machines = {
        COORDINATOR: VmOptions(
            superlink_cpu, superlink_memory, network, named.get(COORDINATOR, ""),
            disk=superlink_disk and superlink_disk << 10, volume=volume(superlink_volume),
        ),
        NODES: VmOptions(
            supernode_cpu, supernode_memory, network, named.get(NODES, ""), gpu,
            disk=supernode_disk and supernode_disk << 10, volume=volume(supernode_volume),
        ),
    }  # fmt: skip
    bare = autoscale == NO_POLICIES
    limits = limits_of("" if bare else autoscale, when, schedule, min_vms, max_vms)
    kinds = _kinds(kind, limits)
    wishes = Wishes(
        name, machines, images, datastore, _bounds(limits.least, limits.most, supernodes), cooldown, group, kinds,
        limits.policies if bare or limits.policies.entries else None,
    )  # fmt: skip
    done = apply(cloud, wishes, force=force, dry_run=dry_run, notify=screen.say)
    if output is Output.JSON:
        screen.show_json(done)
        return
    _show(done, wishes, dry_run=dry_run)
    _explain_gpu(gpu)


def _kinds(asked: list[ServiceKind] | None, limits: Limits) -> tuple[ServiceKind, ...]:
    """Return the kinds to register. Raises `OneflowerError` if policies are asked for where nothing can be scaled."""
    kinds = tuple(asked or ServiceKind)
    if limits.policies.entries and not any(NODES in kind.roles for kind in kinds):
        raise OneflowerError(
            "A coordinator has no SuperNodes of its own to scale.",
            "Register the policies with `--kind site` or `--kind federation`.",
            ExitCode.USAGE,
        )
    return kinds


def _bounds(*asked: int | None) -> dict[ServiceKind, Bounds]:
    """Return the bounds of each kind with these minimum, maximum and number of SuperNodes; none if none was given."""
    kinds = [kind for kind in ServiceKind if NODES in kind.roles] if any(n is not None for n in asked) else []
    return {kind: bounds for kind in kinds if (bounds := kind.bounds(*asked))}


def _show(done: Registered, wishes: Wishes, *, dry_run: bool) -> None:
    """Print what was changed, what keeps people from deploying, and how to deploy."""
    for change in done.changes:
        screen.show(str(change))
    if done.diskless and not Session.is_local():
        screen.note(f"the machines of {' and '.join(done.diskless)} have no image to boot from; give --image.")
    if done.driverless and not Session.is_local():
        screen.note(
            f"the SuperNodes get a GPU, and their image {done.driverless} has no driver for it: they will train on "
            "their CPU. Build one that has it with `oneflower image build --gpu`, and give it with --supernode-image."
        )
    for role in done.asking:
        screen.note(
            f"VM template {wishes.vm_template_name(role)} asks for inputs (USER_INPUTS, INPUTS_ORDER). "
            "Nobody can deploy from Sunstone until you take them out."
        )
    name = wishes.name
    if dry_run:
        screen.show("Nothing was changed (--dry-run)." if done.changes else "Nothing to change.")
        return
    for kind, number in done.templates.items():
        known = kind.template_name(name)
        form = f", and for Sunstone {Rendering.FORM.template_name(known)} (id {done.forms[kind]})" if done.forms else ""
        screen.show(f"Registered: service template {known} (id {number}){form}.")
    more = "" if name == NAME else f" --template {name}"
    kind = next(iter(done.templates))
    more += "" if kind is ServiceKind.FEDERATION else f" --kind {kind}"
    screen.show(f"Deploy with: oneflower --cloud opennebula up{more}")


def _explain_gpu(gpu: str) -> None:
    """Say what a GPU means where it does not mean what one expects."""
    if gpu in ("", "none"):
        return
    if Session.is_local():
        screen.note(
            "the machines of the local cloud are on this one and use its GPUs, whatever --gpu says: deploy with "
            "`--set FL_GPU_ENABLED=YES`."
        )
    elif is_address(gpu):
        screen.note(
            f"{gpu} is one device of one host: one SuperNode has it, and others wait for it. With VENDOR:DEVICE:CLASS "
            "each gets one that is free."
        )


def unregister(
    name: Name = NAME,
    kind: Kinds = None,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Even if there are federations.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Remove the service templates, the VM templates and the images that `register` made."""
    from oneflower.cloud import Federation  # noqa: PLC0415
    from oneflower.cloud.registered import unregister as remove  # noqa: PLC0415

    cloud = Session.cloud()
    names = [federation.name for federation in Federation.all(cloud)]
    if names and not (force or dry_run):
        raise OneflowerError(
            f"There are federations: {', '.join(names)}. Without their VM templates they cannot be scaled up any more.",
            "Remove them first with `oneflower down`, or use --force.",
            ExitCode.CONFLICT,
        )
    changes = remove(cloud, name, tuple(kind or ServiceKind), dry_run=dry_run)
    lines = [str(change) for change in changes] or [f"Nothing is registered as {name!r}."]
    screen.show_result(output, changes, "\n".join(lines))
