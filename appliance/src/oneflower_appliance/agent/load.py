"""How busy this node is: the numbers that a scaling policy can compare. The agent publishes them when they change.

An update costs OpenNebula a write of the whole VM. So there is at most one in 30 s, and none while every number is
within 5 % of its scale of what was published. A node that had no task since then sends nothing, whatever else its
machine does: only how busy it was is brought up to date.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance import metrics as m
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.metrics import Measure
    from oneflower_appliance.orders import NodeReport
    from oneflower_appliance.process import Child

log = logging.getLogger(__name__)

_BETWEEN = 30.0  # seconds between two updates
_CHANGE = 0.05  # of the scale of a number
_SHORT = 10.0  # seconds: the scale of a task that takes less
_WINDOW = 60.0  # seconds for which it counts how busy a node was
_OF_WORK = {attributes.BUSY.name, attributes.TASK_SECONDS.name}
_IDLE = (0.0, False)
_FORGOTTEN = 120.0  # seconds without a task, after which the last one says nothing of this moment


class Load:
    """The load of the SuperNode on `machine`. `child` returns its process of Flower."""

    def __init__(
        self, machine: Machine, child: Callable[[], Child | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._machine, self._clock = machine, clock
        self._measures = _measures(machine, child)
        self._work = Work()
        self._cpu: tuple[float, float] | None = None
        self._told: dict[str, float] = {}
        self._due = self._look = 0.0
        self._state = self._told_in = _IDLE

    def said(self, report: NodeReport | None) -> dict[str, str]:
        """Return the attributes as they are now, which the caller publishes with others."""
        self._told, self._told_in = self._numbers(report), _state(report)
        return _text(self._told)

    def publish_news(self, report: NodeReport | None) -> None:
        """Publish them if enough has changed, and the last update is long enough ago. If that fails, try later."""
        onegate, now = self._machine.onegate, self._clock()
        self._work.note(report, now)
        if onegate is None or now < self._due:
            return
        state = _state(report)
        if state == self._state and now < self._look:
            return
        self._state, self._look = state, now + _BETWEEN
        numbers = self._numbers(report)
        changed = {name for name, value in numbers.items() if _differs(name, value, self._told.get(name))}
        if not changed or (state == self._told_in == (state[0], False) and not changed & _OF_WORK):
            return
        self._due = now + _BETWEEN
        try:
            onegate.publish(_text(numbers))
        except OneGateError as error:
            log.debug("%s", error.sentence)
        else:
            self._told, self._told_in = numbers, state

    def _numbers(self, report: NodeReport | None) -> dict[str, float]:
        now = self._clock()
        self._work.note(report, now)
        work = {
            attributes.BUSY.name: float(round(self._work.busy)),
            attributes.TASK_SECONDS.name: self._work.task_seconds(report, now),
        }
        return dict(self._of_machine(now)) | work

    def _of_machine(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield what was measured. What cannot be is left out."""
        found: dict[str, list[float]] = {}
        for measure in self._measures:
            with suppress(Exception):  # of the kernel, or of a driver
                for reading in measure():
                    found.setdefault(reading.metric.name, []).append(reading.value)
        if cpu := found.get(m.CPU.name):
            used, before = sum(cpu), self._cpu or (now, sum(cpu))
            self._cpu = (now, used)
            seconds = (now - before[0]) * len(os.sched_getaffinity(0))
            yield attributes.CPU.name, _percent((used - before[1]) / seconds if seconds else 0.0)
        if (size := found.get(m.MEMORY.name)) and (free := found.get(m.MEMORY_FREE.name)):
            yield attributes.MEMORY.name, _percent(1 - free[0] / size[0])
        if gpus := found.get(m.GPU_USE.name):
            yield attributes.GPU.name, _percent(sum(gpus) / len(gpus))


def _measures(machine: Machine, child: Callable[[], Child | None]) -> list[Measure]:
    from oneflower_appliance.agent.metrics.machine import MachineMetrics  # noqa: PLC0415 - of SuperNodes only

    found: list[Measure] = [MachineMetrics(machine, NODES, child).measure]
    if machine.settings.flag("FL_GPU_ENABLED"):
        from oneflower_appliance.agent.metrics.gpu import GpuMetrics  # noqa: PLC0415 - without a GPU, never

        found.append(GpuMetrics().measure)
    return found


class Work:
    """How long a node had tasks within the last minute, from what its process reports now and then."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque()  # when, and how many seconds it had worked until then
        self._last = -_FORGOTTEN

    def note(self, report: NodeReport | None, now: float) -> None:
        """Note a report. Without one, a new process has begun, or none runs."""
        if report is None:
            self._looks.clear()
            return
        running = now - report.working_since if report.working_since is not None else 0.0
        worked = report.worked + running
        if self._looks and worked < self._looks[-1][1]:
            self._looks.clear()
        if running or (self._looks and worked > self._looks[-1][1]):
            self._last = now
        self._looks.append((now, worked))
        while len(self._looks) > 1 and now - self._looks[1][0] >= _WINDOW:
            self._looks.popleft()

    @property
    def busy(self) -> float:
        """How much of the time it had a task, in percent."""
        if not self._looks:
            return 0.0
        (begun, before), (ended, after) = self._looks[0], self._looks[-1]
        return min(100.0, 100 * (after - before) / (ended - begun)) if ended > begun else 0.0

    def task_seconds(self, report: NodeReport | None, now: float) -> float:
        """Return how long the last training took, or the running one takes so far; 0 if that is long ago."""
        if report is None or now - self._last > _FORGOTTEN:
            return 0.0
        running = now - report.working_since if report.trains and report.working_since is not None else 0.0
        return round(max(report.trained, running), 1)


def _state(report: NodeReport | None) -> tuple[float, bool]:
    """Return what changes when a node works: the seconds of the tasks that ended, and whether one runs."""
    return (report.worked, report.working_since is not None) if report else _IDLE


def _percent(share: float) -> float:
    return float(round(100 * min(1.0, max(0.0, share))))


def _differs(name: str, value: float, told: float | None) -> bool:
    """Whether a number differs from what was published by more than 5 % of its scale."""
    if told is None:
        return True
    scale = max(told, _SHORT) if name == attributes.TASK_SECONDS.name else 100.0
    return abs(value - told) > _CHANGE * scale


def _text(numbers: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}".removesuffix(".0") for name, value in numbers.items()}
