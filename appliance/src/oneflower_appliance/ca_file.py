"""How a client verifies a server by the CA in a file, which may be replaced while the client lives."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Self


class CaFile(ssl.SSLContext):
    """How a client verifies a server by the CA in a file. One that has expired is not trusted, as always with TLS."""

    def __new__(cls, _: str) -> Self:
        """Create it, with the checks of a client."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: tuple[int, int] | None = None
        self._look()

    def _look(self) -> None:
        found = Path(self._path).stat()
        if (found.st_ino, found.st_mtime_ns) != self._known:
            self.load_verify_locations(self._path)
            self._known = found.st_ino, found.st_mtime_ns

    def wrap_socket(self, *args: Any, **settings: Any) -> ssl.SSLSocket:
        """Begin a handshake."""
        self._look()
        return super().wrap_socket(*args, **settings)

    def wrap_bio(self, *args: Any, **settings: Any) -> ssl.SSLObject:
        """Begin a handshake."""
        self._look()
        return super().wrap_bio(*args, **settings)
