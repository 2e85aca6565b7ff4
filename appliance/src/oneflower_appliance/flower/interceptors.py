"""Adds an interceptor to the clients with which Flower sends requests: it calls that around each of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def intercept_requests(client: Any, make: Callable[[Any], Any]) -> None:
    """Give each client of a class that is created from now on what `make` returns for it, beside what Flower gives."""
    create = client.__init__

    @functools.wraps(create)
    def __init__(self: Any, *args: Any, interceptors: Any = (), **kwargs: Any) -> None:  # noqa: N807
        create(self, *args, interceptors=(*interceptors, make(self)), **kwargs)

    client.__init__ = __init__
