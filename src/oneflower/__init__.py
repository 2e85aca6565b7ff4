"""Deploys and operates Flower federations on OpenNebula, and on one machine without it."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing's; importing typing would take a while, during which Ctrl-C has no answer
if TYPE_CHECKING:
    from typing import Any

    from oneflower.api import Federation, local_cloud, opennebula_cloud
    from oneflower_appliance import __version__

__all__ = ["Federation", "__version__", "local_cloud", "opennebula_cloud"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used, so that the command line does not load it."""
    if name not in __all__:
        raise AttributeError(name)
    if name == "__version__":
        import oneflower_appliance  # noqa: PLC0415

        return oneflower_appliance.__version__
    from oneflower import api  # noqa: PLC0415

    return getattr(api, name)
