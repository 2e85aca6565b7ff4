"""What the image of a role carries, so that a template offers what its machines can do, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oneflower_appliance.use_cases import FRAMEWORKS, NO_USE_CASE, frameworks_of

if TYPE_CHECKING:
    from oneflower_appliance.parameter import Parameter

RELEASE, FRAMEWORK, USE_CASE, STRATEGY = "FLOWER_VERSION", "ML_FRAMEWORK", "FL_USE_CASE", "FL_STRATEGY"


@dataclass(frozen=True)
class Carried:
    """The release of Flower and the framework that an image has; empty where that is not known."""

    flower: str = ""
    framework: str = ""

    def fit(self, parameter: Parameter) -> Parameter:
        """Return a variable with the options and the default that this image leaves it."""
        if parameter.name == RELEASE and self.flower:
            return replace(parameter, default=self.flower)
        if parameter.name == FRAMEWORK and self.framework in parameter.options:
            return replace(parameter, options=(self.framework,), default=self.framework)
        if parameter.name == USE_CASE and self.framework:
            fitting = tuple(name for name in parameter.options if self.framework in frameworks_of(name))
            return replace(parameter, options=fitting or (NO_USE_CASE,))
        if parameter.name == STRATEGY and self.framework in FRAMEWORKS and FRAMEWORKS[self.framework].strategies:
            return replace(parameter, default=FRAMEWORKS[self.framework].strategies[0])
        return parameter

    def fixed(self) -> dict[str, str]:
        """Return the variables that no form needs to ask for, since the image leaves no choice."""
        return {RELEASE: self.flower} if self.flower else {}
