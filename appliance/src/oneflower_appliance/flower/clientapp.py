"""The process of a ClientApp: Flower's `flwr-clientapp`, in the run's own folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.confinement import begin, confine
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.json_output import write_json
from oneflower_appliance.flower.packages import find_packages_in
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.workplace import clientapp_works_in
from oneflower_appliance.orders import PACKAGES_VARIABLE, RUNS_VARIABLE, WIRE_VARIABLE
from oneflower_appliance.process import use_huge_pages

NAME = "flwr-clientapp"


def imports() -> None:
    """Import what ClientApps need, before the first one."""
    # What NumPy imports when it is asked for, and what tasks and the pre-built apps import of ours.
    import numpy.ma  # noqa: PLC0415
    import numpy.random  # noqa: F401, PLC0415
    from flwr.clientapp import mod  # noqa: F401, PLC0415

    import oneflower_appliance.flower.warm.arrayfile  # noqa: PLC0415
    import oneflower_appliance.flower.wiredtype  # noqa: PLC0415
    import oneflower_appliance.training.clients  # noqa: PLC0415
    import oneflower_appliance.training.data  # noqa: PLC0415
    import oneflower_appliance.training.frameworks  # noqa: F401, PLC0415

    internals.clientapp_command()


def main() -> None:
    """Run a ClientApp. If Flower's command has moved, run stock Flower's."""
    confine()
    begin()
    use_huge_pages(wanted=not is_edge())
    write_json(NAME)
    if not places.have(Feature.CLIENTAPP):
        os.execv(Path(sys.executable).with_name(NAME), [NAME, *sys.argv[1:]])  # noqa: S606 - becomes Flower's command
    sys.argv[0] = NAME
    if (folder := os.environ.get(RUNS_VARIABLE)) and places.have(Feature.CLIENTAPP_FOLDER):
        clientapp_works_in(Path(folder))
    if (folder := os.environ.get(PACKAGES_VARIABLE)) and places.have(Feature.CLIENTAPP_PACKAGES):
        find_packages_in(Path(folder), internals.clientapp_task())
    if (wire := os.environ.get(WIRE_VARIABLE)) and places.have(Feature.WIRE_CLIENTAPP):
        from oneflower_appliance.flower.wiredtype import cast_in_clientapp  # noqa: PLC0415 - imports NumPy

        cast_in_clientapp(wire)
    internals.clientapp_command().flwr_clientapp()
