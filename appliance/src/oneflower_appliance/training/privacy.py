"""Which runs are private, so that what a single node reported is not recorded.

The ServerApp gets the metrics and the number of examples of each node, also with differential privacy, and those of
evaluation also with secure aggregation: these protect its update and the model. But both are exact functions of a
node's data. A record that people fetch and pass on would undo the protection, so in these runs only what the ServerApp
sees of the machine is recorded: faults, seconds and bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower_appliance.parameters import PARAMETERS, PRIVACY
from oneflower_appliance.training.strategies import read_form

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRIVATE = ("DifferentialPrivacy", "DPFedAvg", "SecAgg")  # how the names of Flower's classes begin
_DEEPEST = 10


def is_private(run_config: Mapping[str, Any], *parts: object) -> bool:
    """Whether a run adds privacy: by FL_PRIVACY, or because its strategy or workflow, or a part of it, does.

    `run_config` is the app's own, with what overrides it. What a ClientApp of an app's own does is not known.
    """
    said = run_config.get(PARAMETERS["FL_PRIVACY"].key, "")
    if (said if said in PRIVACY else read_form({}).text("FL_PRIVACY")) != "none":
        return True
    kinds = (kind for part in parts for one in _nested(part) for kind in type(one).__mro__)
    return any(kind.__name__.startswith(_PRIVATE) for kind in kinds)


def _nested(part: object) -> list[object]:
    """Return an object, the strategy or workflow inside it, and so on."""
    found: list[object] = []
    while part is not None and len(found) < _DEEPEST:
        found.append(part)
        inner = getattr(part, "strategy", None)
        part = getattr(part, "fit_workflow", None) if inner is None else inner
    return found
