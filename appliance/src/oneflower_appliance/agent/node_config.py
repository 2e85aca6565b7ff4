"""What a SuperNode tells its ClientApps: which share of the data is its own, and where its own data is."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent.data_folder import data_folder
from oneflower_appliance.agent.discovery import CLOSELY, PATIENCE
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.attributes import NUM_PARTITIONS, OWN_DATA, PARTITION_ID, PARTITIONS
from oneflower_appliance.formats import split_node_config
from oneflower_appliance.log_lines import about
from oneflower_appliance.orders import DATA_PATH, SITE, SITE_INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower_appliance.agent.discovery import Found
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.agent.onegate import OneGate

log = logging.getLogger(__name__)

_ID, _COUNT = "partition-id", "num-partitions"


class NodeConfig:
    """The node config of the SuperNode on `machine`. `values` are its keys and values, as Flower takes them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.values: dict[str, str] = {}

    def partition(self, found: Found, joined: Mapping[str, str]) -> str:
        """Take the share of the data. Returns which it is, in a few words.

        It is as FL_NODE_CONFIG says, as the SuperLink `joined` by an invitation says, or as that of the service says,
        which was `found`. Raises `OneflowerError`.
        """
        if given := self._machine.settings.text("FL_NODE_CONFIG"):
            self.values = split_node_config(given) | {key: joined[key] for key in (SITE, SITE_INDEX) if joined}
            about(partition=self.values.get(_ID, ""))
            return "FL_NODE_CONFIG, as given"
        if joined:
            self.values = dict(joined)
            about(partition=joined[_ID])
            return f"{joined[_ID]} of {joined[_COUNT]} of the site {joined[SITE]}"
        if self._machine.onegate is None or found.vm is None:
            log.info("Outside a service no partition is computed; set FL_NODE_CONFIG if the app needs one.")
            return "outside a service: none"
        number, count = self._assigned(found, found.vm)
        self.values = {_ID: str(number), _COUNT: str(count)}
        about(partition=str(number))
        return f"{number} of {count}"

    def _assigned(self, found: Found, superlink: int) -> tuple[int, int]:
        """Wait for the partition that the SuperLink gives this VM. Returns its id, and how many there are."""
        vm_id = int(self._machine.context["VMID"])
        known = iter([PARTITIONS.read(found.published)])

        def mine(onegate: OneGate) -> Partitions:
            text = next(known, "") or PARTITIONS.read(onegate.attributes(superlink))
            try:
                partitions = Partitions.parse(text)
            except ValueError as error:
                raise OneGateError("The SuperLink published no partitions.", "Recover its VM.", heals=True) from error
            if vm_id not in partitions.ids:
                raise OneGateError("The SuperLink has not given this VM a partition yet.", "", heals=True)
            return partitions

        partitions = self._machine.insist(mine, PATIENCE, CLOSELY)
        return partitions.ids[vm_id], partitions.count

    def data(self) -> str:
        """Take the folder with this node's own data, if there is any. Raises `OneflowerError`."""
        given = self._machine.settings.text("FL_DATA_PATH")
        own = given.replace("{partition}", self.values.get(_ID, ""))
        folder = data_folder("FL_DATA_PATH", own, self._machine.home)
        if folder is None:
            return "none of its own"
        self.values.setdefault(DATA_PATH, str(folder))
        return f"in {folder}"

    @property
    def folder(self) -> Path | None:
        """The folder with this node's own data, if there is any."""
        return Path(self.values[DATA_PATH]) if DATA_PATH in self.values else None

    @property
    def published(self) -> dict[str, str]:
        """What the SuperNode publishes of it."""
        shares = {PARTITION_ID.name: self.values.get(_ID, ""), NUM_PARTITIONS.name: self.values.get(_COUNT, "")}
        whole = {name: text for name, text in shares.items() if re.fullmatch(r"\d+", text)}
        return whole | {OWN_DATA.name: OWN_DATA.flag(value=self.folder is not None)}
