"""The addresses of machines: 127.N.x.y, where N belongs to this local cloud."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection

_FIRST = 2
_FLEET_PORT = 9092


class Addresses:
    """Gives one address after another, and starts again at the first when all have been used."""

    def __init__(self, network: int) -> None:
        self._network = network
        self._next = _FIRST

    def next_free(self, used: Collection[str]) -> str:
        """Return the next free address. Raises `OneflowerError`. Right after a start, `used` ones are skipped."""
        taken = used if self._next == _FIRST else ()
        for _ in range(65532):
            number, self._next = self._next, self._next % 65533 + 1
            address = f"127.{self._network}.{number >> 8}.{number & 255}"
            if number > 1 and number & 255 not in (0, 255) and address not in taken and _free(address):
                return address
        raise OneflowerError("No address is left for another machine.", "Delete a federation first.")


def _free(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, _FLEET_PORT))
        except OSError:
            return False
        return True
