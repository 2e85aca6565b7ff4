"""What a machine that is ready does without: features that its release of Flower does not allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance import attributes, features_off
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.files import private_directory

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.agent.machine import Machine


class Shortfalls:
    """The features that are off in the processes of Flower on `machine`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._told: dict[str, str] = {}

    def forget(self) -> Path:
        """Forget those of earlier processes. Returns the folder into which new processes are to report theirs."""
        folder = self._folder
        features_off.clear(folder)
        return folder

    def look(self) -> dict[str, str]:
        """Have the status file say which features are off. Returns what is to be published, by the caller."""
        lines = features_off.reported(self._folder)
        self._machine.journal.remark(lines, "features", logged=True)  # by the process that reported it
        self._told = {attributes.FEATURES_OFF.name: attributes.FEATURES_OFF.write("\n".join(lines))}
        return self._told

    def publish_news(self) -> None:
        """Publish which features are off, if that has changed. If OneGate fails, the next call tries again."""
        before, onegate = self._told, self._machine.onegate
        if self.look() == before or onegate is None:
            return
        try:
            onegate.publish(self._told)
        except OneGateError:
            self._told = before

    @property
    def _folder(self) -> Path:
        return private_directory(self._machine.home / "features-off")
