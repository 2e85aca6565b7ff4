"""Deploys and operates Flower federations on OpenNebula, and on one machine without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneflower.api import Federation, local_cloud, opennebula_cloud

__version__ = "0.1.0"
__all__ = ["Federation", "local_cloud", "opennebula_cloud"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first asked for, so that the command line need not."""
    if name not in __all__:
        raise AttributeError(name)
    from oneflower import api  # noqa: PLC0415

    return getattr(api, name)
