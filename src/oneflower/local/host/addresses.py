"""The addresses of machines: one after another within a network of 65,534."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_FIRST = 2


class Addresses:
    """Gives one address after another, and starts over when all have been used.

    `prefix` is the network (`127.20`); `is_free` tells whether nothing else on this machine has an address.
    """

    def __init__(self, prefix: str, is_free: Callable[[str], bool] = lambda _: True) -> None:
        self._prefix = prefix
        self._is_free = is_free
        self._next = _FIRST

    def next_free(self, used: Collection[str]) -> str:
        """Return the next address that is not among the `used` ones. Raises `OneflowerError`."""
        for _ in range(65532):
            number, self._next = self._next, self._next % 65533 + 1
            address = f"{self._prefix}.{number >> 8}.{number & 255}"
            if number > 1 and number & 255 not in (0, 255) and address not in used and self._is_free(address):
                return address
        raise OneflowerError("No address is left for another machine.", "Delete a federation first.")
