"""Commands over appliance images: `oneflower image build`, `oneflower image test`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.bundle import With, find_wheels
from oneflower.cli.screen import Output
from oneflower.cli.steps import step
from oneflower.trial.plan import Machines
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED
from oneflower_appliance.use_cases import FRAMEWORKS

_HELP = "The image that the virtual machines boot: build it, then test it, then register it."
_HOW = "docs/images.md has more: what is in an image, and what it does with the context of a machine."

image = typer.Typer(help=_HELP, no_args_is_help=True, epilog=_HOW)


@image.command(epilog="Next: `oneflower image test IMAGE`, then `oneflower register`.")
def build(
    framework: Annotated[
        str,
        typer.Option(
            help=f"What the image carries beside Flower: none, {', '.join(FRAMEWORKS)} (sklearn is the "
            "default), or llm (PyTorch, transformers, PEFT)."
        ),
    ] = "",
    edge: Annotated[
        bool, typer.Option("--edge", help="For small devices: what `none` has, under its own name.")
    ] = False,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu", help="With NVIDIA's driver, and a PyTorch that it runs: pytorch (then the default) or llm."
        ),
    ] = False,
    architecture: Annotated[
        str, typer.Option("--arch", metavar="ARCH", help="amd64. There is no arm64 yet, and this says what is missing.")
    ] = "amd64",
    flower_version: Annotated[
        str, typer.Option(help="Release of Flower; every machine of a federation has the same.")
    ] = FLOWER_TESTED,
    size: Annotated[
        str,
        typer.Option(
            help="Size of the virtual disk, such as 8G; usually 4G or more. The file is small all the same, and the "
            "file system grows to the disk that OpenNebula gives."
        ),
    ] = "",
    folder: Annotated[Path, typer.Option("--save", metavar="DIR", help="Folder for the image and its files.")] = Path(),
    app: Annotated[
        Path | None, typer.Option("--app", metavar="DIR", help="Have the packages that the app in this folder needs.")
    ] = None,
    more: With = None,
    mirror: Annotated[str, typer.Option(help="Debian mirror, if not deb.debian.org.")] = "",
    fresh: Annotated[
        bool, typer.Option("--no-cache", help="Make again what an earlier build kept in ~/.cache/oneflower.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Build the image that SuperLink and SuperNodes boot.

    It is made of Debian packages and Python wheels, each verified. The first one
    takes some minutes, the next ones less. It needs root, and says which Debian
    packages are missing.

    Three files are written: the image (.qcow2), its manifest (.json: versions,
    sizes, checksums), and its bill of materials (.cdx.json). Keep them together.
    """
    from oneflower.images import ImageSpec  # noqa: PLC0415
    from oneflower.images import build as build_image  # noqa: PLC0415
    from oneflower.images.rootless import become_root  # noqa: PLC0415
    from oneflower.images.spec import MIRROR, parse_size  # noqa: PLC0415
    from oneflower.local.home import LocalHome  # noqa: PLC0415

    if architecture != "amd64":
        raise OneflowerError(
            f"There is no image for {architecture} yet, only for amd64.",
            "Leave out --arch. docs/images.md says, under arm64, which parts are there and which are missing.",
            ExitCode.ENVIRONMENT,
        )
    variant = framework or ("none" if edge else "pytorch" if gpu else "sklearn")
    wanted = ImageSpec(
        variant,
        edge=edge,
        gpu=gpu,
        flower=flower_version,
        size=parse_size(size) if size else None,
        mirror=mirror or MIRROR,
    )
    become_root()
    if app or more:
        wheels = find_wheels(app, more, flower_version, wanted.packages)
        wanted = replace(wanted, added=tuple(wheel.line for wheel in wheels))
    built = build_image(wanted, folder, LocalHome.of_user().images, step, fresh=fresh)
    if output is Output.JSON:
        screen.show_json({**built.manifest, "path": built.image.absolute()})
        return
    about = built.manifest
    screen.show(f"{built.image}  {about['size'] / 10**6:.0f} MB, disk {about['disk'] >> 30} GB")
    screen.show(f"sha256   {about['sha256']}")
    screen.show(f"md5      {about['md5']}")
    screen.show(f"manifest {built.manifest_file}")
    screen.show(f"SBOM     {built.sbom_file}")
    screen.say(f"Next, as root: {screen.program()} image test {built.image}")


@image.command(name="test", epilog="It takes two minutes for a small image. Next: `oneflower register`.")
def try_image(
    image_file: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            exists=True,
            resolve_path=True,
            help="The .qcow2, with its manifest in the same folder, or the folder of its root file system.",
        ),
    ],
    machines: Annotated[
        Machines, typer.Option(help="What boots it: systemd containers, or virtual machines of QEMU.")
    ] = Machines.CONTAINER,
    whole: Annotated[
        bool, typer.Option("--whole", help="With qemu: everything, even without KVM. It takes long.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Try an image before it is used: a federation of machines that boot it.

    It deploys, trains an app for what the image carries, survives a reboot of each
    machine and a kill of each agent, scales, trains again, and is removed. It needs
    root, and says which Debian packages are missing. It has a network of its own,
    so this machine's does not change.

    Virtual machines boot by BIOS and by UEFI, and the SuperLink's power is cut.
    Without KVM, that is all, because an emulated processor is slow.
    """
    from oneflower.trial.outside import try_image as try_it  # noqa: PLC0415

    outcome = try_it(image_file, step, machines, whole=whole)
    screen.show_result(output, outcome, f"{image_file.name} passed.")
