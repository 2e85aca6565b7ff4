"""Has Flower's clients trust the CA that a file has when they connect, not when they were made.

A SuperLink replaces its CA while Flower runs, several times in a long life. Flower reads the file once.
"""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any

from oneflower_appliance.ca_file import CaFile
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.orders import CA_VARIABLE


def follow_ca() -> None:
    """Make each client that this process creates from now on follow the file with the CA, if there is one."""
    client = internals.http_client()
    if CA_VARIABLE not in os.environ or not places.have(Feature.CA_FOLLOWING):
        return
    original = client.__init__
    if hasattr(original, "follows_ca"):  # in the process that this one was forked from
        return

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **settings: Any) -> None:  # noqa: N807
        trusted = {"verify": following(settings["verify"])} if "verify" in settings else {}
        original(self, *args, **settings | trusted)

    __init__.follows_ca = True  # type: ignore[attr-defined]
    client.__init__ = __init__  # type: ignore[method-assign]


def following(verify: Any) -> Any:
    """Return how to verify a server by the CA in the file, instead of by one that was read from it."""
    path = os.environ.get(CA_VARIABLE)
    is_read = isinstance(verify, str) or (isinstance(verify, ssl.SSLContext) and not isinstance(verify, CaFile))
    return CaFile(path) if path and is_read else verify
