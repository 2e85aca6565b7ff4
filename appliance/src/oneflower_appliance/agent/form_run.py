"""The run that the form asks for: which pre-built app, with what settings, and when there are enough nodes for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.run_folder import INITIAL_RUN
from oneflower_appliance.settings import run_config_keys
from oneflower_appliance.use_cases import NO_USE_CASE, publisher_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.values import Settings


class FormRun:
    """Starts that run. The use case is known as soon as a SuperNode, which has it from the form, is ready."""

    def __init__(self, api: SuperLinkApi, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._wanted: tuple[str, str] | None = None

    def learn(self, onegate: OneGate | None, nodes: Sequence[int]) -> None:
        """Learn from a SuperNode what the form asks for. Raises `OneGateError`."""
        if self._wanted is None and onegate is not None and nodes:
            published = onegate.attributes(nodes[0])
            if attributes.READY.is_set(published):
                use_case = attributes.USE_CASE.read(published) or NO_USE_CASE
                self._wanted = (use_case, attributes.FRAMEWORK.read(published))

    @property
    def use_case(self) -> str:
        """The use case, empty as long as it is not known, or if the form asks for none."""
        use_case = self._wanted[0] if self._wanted else NO_USE_CASE
        return "" if use_case == NO_USE_CASE else use_case

    @property
    def app(self) -> str:
        """The app of its runs, empty as long as it is not known."""
        return publisher_name(self.use_case) if self.use_case else ""

    @property
    def is_nothing(self) -> bool:
        """Whether it is known that the form asks for no run."""
        return self._wanted is not None and not self.use_case

    def lacks_nodes(self) -> str:
        """Return that too few nodes are online, empty if there are enough. Raises `OSError` or `ValueError`."""
        if self._wanted is None:
            return "no SuperNode is ready"
        needed, online = self._settings.integer("FL_MIN_AVAILABLE_CLIENTS"), self._api.nodes_online()
        return f"{online} of {needed} SuperNodes are online" if online < needed else ""

    def start(self, initial: str = "") -> str:
        """Start a run, and return its id. It begins with the model of the run `initial`, if one is named.

        Raises `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        assert self._wanted is not None  # noqa: S101 - there is a use case
        config = {
            key: PARAMETERS[name].parse(self._settings[name]) for name, key in run_config_keys(self._settings).items()
        }
        config |= {PARAMETERS["ML_FRAMEWORK"].key: self._wanted[1]} | ({INITIAL_RUN: initial} if initial else {})
        return self._api.start(self.use_case, config)
