"""`oneflower bundle`: the packages that an app needs and machines lack, for machines without a network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.steps import step
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED, PARAMETERS

if TYPE_CHECKING:
    from oneflower.images.wheels import Wheel

With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="PACKAGE", help="A package, like pandas or 'pandas>=2'. Repeat it for more."),
]


def find_wheels(app: Path | None, more: list[str] | None, flower: str, framework: str) -> list[Wheel]:
    """Return the wheels that machines need for an app and more packages. Raises `OneflowerError`."""
    from oneflower.cloud.apps import load_app  # noqa: PLC0415
    from oneflower.cloud.dependencies import check_lines  # noqa: PLC0415
    from oneflower.images.wheels import resolve  # noqa: PLC0415

    loaded = load_app(str(app), {}) if app else None
    wanted = dict.fromkeys(loaded.declaration.dependencies, f"the app {loaded.name}") if loaded else {}
    try:
        check_lines(more or ())
    except ValueError as error:
        raise OneflowerError(
            f"--with is not valid: {error}.", "Give a name, like pandas or 'pandas>=2'.", ExitCode.USAGE
        ) from error
    wanted |= dict.fromkeys(more or (), "--with")
    with step("finding the packages that the machines need"):
        return resolve(wanted, flower, framework, loaded.folder if loaded else None)


def bundle(
    app: Annotated[Path | None, typer.Argument(metavar="[APP]", help="Folder of the app.")] = None,
    more: With = None,
    save: Annotated[
        Path, typer.Option("--save", metavar="DIR|FILE.tar", help="Folder to write, or a tar file of it.")
    ] = Path("wheels"),
    framework: Annotated[
        str, typer.Option(help="ML_FRAMEWORK of the federation: what its machines have is not in the bundle.")
    ] = PARAMETERS["ML_FRAMEWORK"].default,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="The machines boot an image with NVIDIA's driver (`image build --gpu`).")
    ] = False,
    flower_version: Annotated[str, typer.Option(help="FLOWER_VERSION of the federation.")] = FLOWER_TESTED,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Write the packages that an app needs and machines lack into a folder.

    It has wheels for the machines' Python (x86_64), and a list of them with hashes.
    Put it on the data disk of each machine: they install from it without a network.
    """
    from oneflower.images.bundle import write_bundle  # noqa: PLC0415
    from oneflower.runtimes.runtime import GPU, GPU_PACKAGES  # noqa: PLC0415

    if app is None and not more:
        raise OneflowerError(
            "There is nothing to bundle.", "Name the folder of an app, or a package: --with pandas.", ExitCode.USAGE
        )
    if gpu and framework not in GPU_PACKAGES:
        raise OneflowerError(
            f"There is no image with NVIDIA's driver for {framework}.",
            f"Give --framework {' or '.join(GPU_PACKAGES)}, or leave out --gpu.",
            ExitCode.USAGE,
        )
    has = f"{framework}{GPU}" if gpu else framework
    wheels = find_wheels(app, more, flower_version, has)
    if not wheels:
        screen.show_result(output, {"wheels": []}, f"Nothing is missing in Flower {flower_version} with {has}.")
        return
    with step(f"fetching {len(wheels)} wheels"):
        written = write_bundle(wheels, save)
    if output is Output.JSON:
        screen.show_json(written)
        return
    screen.show(f"{written.path}  {len(wheels)} wheels, {written.size / 10**6:.1f} MB: {', '.join(written.wheels)}")
    screen.say("Put this folder on the data disk of every machine, and deploy with:")
    screen.show(f"--set FL_PACKAGE_INDEX=/FOLDER/ON/THE/MACHINES --set FL_PACKAGES={shlex.quote(written.packages)}")
