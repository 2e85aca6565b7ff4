"""The process of a ServerApp: Flower's `flwr-serverapp`, with supervised strategies, in the run's own folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.ca_following import follow_ca
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.json_output import write_json
from oneflower_appliance.flower.packages import find_packages_in
from oneflower_appliance.flower.workplace import serverapp_works_in
from oneflower_appliance.orders import PACKAGES_VARIABLE, RUNS_VARIABLE, WIRE_VARIABLE
from oneflower_appliance.process import use_huge_pages
from oneflower_appliance.run_folder import CHECKPOINTS

NAME = "flwr-serverapp"


def imports() -> None:
    """Import what ServerApps need, before the first one."""
    import numpy.ma  # noqa: PLC0415 - NumPy does it when it is asked for
    import numpy.random  # noqa: F401, PLC0415

    import oneflower_appliance.flower.legacy  # noqa: PLC0415 - it imports Flower

    # They import Flower, which a SuperNode needs less of.
    import oneflower_appliance.flower.legacy.hooks  # noqa: PLC0415
    import oneflower_appliance.flower.lifesigns  # noqa: PLC0415
    import oneflower_appliance.training.supervisor  # noqa: F401, PLC0415

    internals.serverapp_command()


def main() -> None:
    """Run a ServerApp. If Flower's command has moved, run stock Flower's."""
    from oneflower_appliance.flower.legacy import hooks  # noqa: PLC0415 - imports Flower
    from oneflower_appliance.flower.lifesigns import count_messages  # noqa: PLC0415 - imports Flower
    from oneflower_appliance.training.supervisor import supervise  # noqa: PLC0415 - imports Flower

    use_huge_pages(wanted=True)
    follow_ca()
    write_json(NAME)
    if not places.have(Feature.SUPERVISED_SERVERAPP):
        os.execv(Path(sys.executable).with_name(NAME), [NAME, *sys.argv[1:]])  # noqa: S606 - becomes Flower's command
    sys.argv[0] = NAME
    if folder := os.environ.get(RUNS_VARIABLE):
        runs = Path(folder)
        supervise(runs, runs.parent / CHECKPOINTS)
        if places.have(Feature.SUPERVISED_LEGACY_APP):
            hooks.supervise_legacy(runs, runs.parent / CHECKPOINTS)
        if places.have(Feature.MESSAGE_COUNTS):
            count_messages(runs)
        if places.have(Feature.SERVERAPP_FOLDER):
            serverapp_works_in(runs)
    if (folder := os.environ.get(PACKAGES_VARIABLE)) and places.have(Feature.SERVERAPP_PACKAGES):
        find_packages_in(Path(folder), internals.serverapp_task())
    if (wire := os.environ.get(WIRE_VARIABLE)) and places.have(Feature.WIRE_SERVERAPP):
        from oneflower_appliance.flower.wiredtype import cast_in_serverapp  # noqa: PLC0415 - imports NumPy

        cast_in_serverapp(wire)
    if places.have(Feature.SITE_SPENDING):
        from oneflower_appliance.flower.spent import note_what_sites_spend  # noqa: PLC0415 - imports Flower

        note_what_sites_spend()
    internals.serverapp_command().flwr_serverapp()
