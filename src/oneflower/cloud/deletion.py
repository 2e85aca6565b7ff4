"""Removes a service and all of its VMs, whatever its state.

OneFlow refuses a DELETE in some states. In UNDEPLOYING it accepts one and forgets VMs that still run. So the request
depends on the state.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower.cloud.refused import RefusedError, UnreachableError
from oneflower.opennebula.states import VM_ENDING, ServiceState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.service import Service

_PULSE = 0.15
# States in which OneFlow accepts a DELETE.
_DELETABLE = (ServiceState.PENDING, ServiceState.RUNNING, ServiceState.WARNING, ServiceState.HOLD)
# States in which a second DELETE would make OneFlow forget VMs that still run.
_LEAVING = (ServiceState.UNDEPLOYING, ServiceState.UNDEPLOYING_NETS)


def delete(service: Service, timeout: float) -> None:
    """Undeploy a service, and wait until it and every one of its VMs are gone.

    Raises `OneflowerError` after `timeout` seconds.
    """
    with service.cloud.patient():
        deadline = time.monotonic() + timeout
        _undeploy(service, timeout, deadline)
        _clear(service, deadline)


def roll_back(service: Service) -> str:
    """Remove a service after an error or an interrupt. That is what matters: errors of the removal are not raised.

    Returns what may be left behind and how to remove it, or an empty text; `Cloud.tell` has received the same. A second
    interrupt ends the removal. It is raised after `Cloud.tell` has received what is left.
    """
    try:
        delete(service, timeout=120)
    except OneflowerError as error:
        left = f"{service.name} could not be removed: {error.message} {service.remains}"
        service.cloud.tell(left)
        return left
    except BaseException:
        service.cloud.tell(f"Interrupted while removing {service.name}. {service.remains}")
        raise
    return ""


def _undeploy(service: Service, timeout: float, deadline: float) -> None:
    asked, refusal = False, ""
    while (body := service.find_body()) is not None:
        if not asked:
            refusal = _ask_to_go(service, body["state"])
            asked = not refusal
        if time.monotonic() > deadline:
            raise OneflowerError(
                f"The federation {service.name!r} is still there after {timeout:.0f} s. {refusal}".strip(),
                "Look with `oneflower show`; run `oneflower down` again.",
                ExitCode.TIMEOUT,
            )
        time.sleep(_PULSE)


def _ask_to_go(service: Service, state: int) -> str:
    """Ask OneFlow to undeploy. Returns the reason if it refuses, for example because the state has changed."""
    oneflow = service.cloud.oneflow
    try:
        if state in _DELETABLE:
            oneflow.delete_service(service.id)
        elif state not in _LEAVING:
            oneflow.recover_service(service.id, delete=state != ServiceState.FAILED_UNDEPLOYING)
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return error.message
    except UnreachableError as error:  # the state will tell whether the request arrived
        return error.message
    return ""


def _clear(service: Service, deadline: float) -> None:
    """Wait for the VMs of a service that is gone, and terminate those that OneFlow left behind."""
    core, asked = service.cloud.core, set[int]()
    while left := core.vms(service.seen):
        for number in {number for number, vm in left.items() if vm.lcm_state not in VM_ENDING} - asked:
            with suppress(UnreachableError):  # then it is asked again
                core.act_on_vm(number, "terminate-hard")
                asked.add(number)
        if time.monotonic() > deadline:
            raise OneflowerError(
                f"VMs of the federation {service.name!r} are still there: {', '.join(map(str, left))}.",
                "Terminate them: `onevm terminate --hard`, or `onevm recover --delete` where that fails.",
                ExitCode.TIMEOUT,
            )
        time.sleep(_PULSE)
