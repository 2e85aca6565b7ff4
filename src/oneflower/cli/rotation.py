"""`oneflower rotate`."""

from __future__ import annotations

from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format, find
from oneflower.cli.screen import Output
from oneflower.cli.steps import Steps


def rotate(
    name: Annotated[str, typer.Argument(metavar="FEDERATION", help="Name or id of the federation.")],
    node_keys: Annotated[
        bool, typer.Option("--node-keys", help="Have the SuperNodes make other keys, in place of the CA.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until all is replaced.")] = 600,
    output: Format = Output.TEXT,
) -> None:
    """Replace the CA and the certificate of a SuperLink now, or the keys of its SuperNodes. Runs go on.

    All are replaced by themselves at half of their lives (FL_CA_LIFETIME, FL_CERT_LIFETIME, FL_NODE_KEY_LIFETIME).
    """
    rotation = find(name).rotation
    if node_keys:
        with Steps() as steps:
            nodes = rotation.replace_node_keys(timeout, steps.notify)
        screen.show_result(
            output,
            {"nodes": nodes},
            f"These SuperNodes of {name} have other keys, and their partitions as before: {', '.join(nodes)}.",
        )
        return
    found = rotation.replace_ca(timeout)
    screen.show_result(
        output,
        {"ca": found},
        f"The CA of {name} is another one now, with the SHA-256 {found}. Machines and invitations that name the one "
        "before stay valid.",
    )
