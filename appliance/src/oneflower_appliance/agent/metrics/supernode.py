"""What a SuperNode measures: whether its SuperLink hears from it, and its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance import metrics as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.metrics import Measure, Reading
    from oneflower_appliance.values import Settings


def supernode_measures(settings: Settings, is_heard: Callable[[], bool]) -> tuple[Measure, ...]:
    """Return the measures. Without FL_GPU_ENABLED, GPUs are not looked at."""

    def online() -> Iterator[Reading]:
        yield m.ONLINE.is_(is_heard())

    if not settings.flag("FL_GPU_ENABLED"):
        return (online,)
    from oneflower_appliance.agent.metrics.gpu import GpuMetrics  # noqa: PLC0415 - without a GPU, never

    return online, GpuMetrics().measure
