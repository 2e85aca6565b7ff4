"""Commands over marketplaces: `oneflower marketplace render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output

marketplace = typer.Typer(help="Publish an image and the form in a marketplace of OpenNebula.", no_args_is_help=True)


@marketplace.callback()
def _marketplace() -> None:
    """Publish an image and the form in a marketplace of OpenNebula."""


@marketplace.command()
def render(
    image: Annotated[Path, typer.Option("--image", metavar="MANIFEST", help="The .json next to the image.")],
    folder: Annotated[
        Path, typer.Option("--save", metavar="DIR", help="Where to write it; may be a checkout of the marketplace.")
    ],
    url: Annotated[str, typer.Option(help="Where the file of the image is downloaded from.")] = "",
    publisher: Annotated[str, typer.Option(help="Who publishes it.")] = "oneflower",
    email: Annotated[str, typer.Option(help="Email of the publisher.")] = "",
    private: Annotated[
        bool, typer.Option("--private", help="For a private marketplace: the script that publishes there.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Write a contribution to the community's marketplace, or a script that publishes in a private one."""
    from oneflower.images.app_image import read_image  # noqa: PLC0415
    from oneflower.marketplace import Publisher, render, render_private  # noqa: PLC0415
    from oneflower_appliance.errors import ExitCode, OneflowerError  # noqa: PLC0415

    about = read_image(image)
    if (beside := image.with_name(about.file)).is_file():
        about.check(beside)
    if private:
        script = render_private(about, folder)
        screen.show_result(output, {"script": script}, f"Wrote {script}. Next: run it on the front-end.")
        return
    if not url.startswith(("https://", "http://")):
        raise OneflowerError(
            "A catalogue needs to know where the image is downloaded from.",
            f"Give --url https://.../{about.file}, or --private for a private marketplace.",
            ExitCode.USAGE,
        )
    written = render(about, Publisher(url, publisher, email), folder)
    follow_up = (
        "Next: commit it in the checkout."
        if written.in_makefile
        else f"Next: copy it over a checkout of OpenNebula/marketplace-community, and add {written.app} to SERVICES in "
        "apps-code/community-apps/Makefile.config."
    )
    screen.show_result(output, written, f"Wrote {written.app}: {len(written.files)} files in {folder}.\n{follow_up}")
