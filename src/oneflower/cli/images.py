"""Commands over appliance images: `oneflower image build`, `oneflower image test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.steps import step
from oneflower_appliance.parameters import FLOWER_TESTED

image = typer.Typer(help="The image that the virtual machines boot.", no_args_is_help=True)


@image.callback()
def _image() -> None:
    """The image that the virtual machines boot."""


@image.command()
def build(
    framework: Annotated[
        str, typer.Option(help="Framework in the image: none, sklearn (the default), pytorch, tensorflow or llm.")
    ] = "",
    edge: Annotated[bool, typer.Option("--edge", help="As small as possible, without a framework.")] = False,
    flower_version: Annotated[str, typer.Option(help="Release of Flower.")] = FLOWER_TESTED,
    size: Annotated[
        str, typer.Option(help="Size of the virtual disk, such as 8G. It grows with the disk that OpenNebula gives.")
    ] = "",
    folder: Annotated[Path, typer.Option("--save", metavar="DIR", help="Folder for the image and its files.")] = Path(),
    mirror: Annotated[str, typer.Option(help="Debian mirror.")] = "",
    fresh: Annotated[bool, typer.Option("--no-cache", help="Use nothing that an earlier build kept.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Build the image for both roles, with its manifest and its bill of materials. Needs root and Debian's tools."""
    from oneflower.images import ImageSpec  # noqa: PLC0415
    from oneflower.images import build as build_image  # noqa: PLC0415
    from oneflower.images.spec import MIRROR, parse_size  # noqa: PLC0415
    from oneflower.local.home import LocalHome  # noqa: PLC0415

    wanted = ImageSpec(
        framework or ("none" if edge else "sklearn"),
        edge=edge,
        flower=flower_version,
        size=parse_size(size) if size else None,
        mirror=mirror or MIRROR,
    )
    built = build_image(wanted, folder, LocalHome.of_user().cache / "images", step, fresh=fresh)
    if output is Output.JSON:
        screen.show_json({**built.manifest, "path": built.image.absolute()})
        return
    about = built.manifest
    screen.show(f"{built.image}  {about['size'] / 10**6:.0f} MB, disk {about['disk'] >> 30} GB")
    screen.show(f"sha256   {about['sha256']}")
    screen.show(f"md5      {about['md5']}")
    screen.show(f"manifest {built.manifest_file}")
    screen.show(f"SBOM     {built.sbom_file}")


@image.command(name="test")
def try_image(
    image_file: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", exists=True, resolve_path=True, help="The qcow2, or the folder of its root file system."
        ),
    ],
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Try an image: deploy a federation of it in containers, train, reboot and kill its machines, scale, remove.

    It needs root and Debian's systemd-container, iproute2 and openssh-client, and touches no network of this machine.
    """
    from oneflower.trial import try_image as try_it  # noqa: PLC0415

    try_it(image_file, step)
    screen.show_result(output, {"image": image_file, "passed": True}, f"{image_file.name} passed.")
