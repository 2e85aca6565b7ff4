"""The states of services, roles, virtual machines and images, and the severities of a service's log, as in OpenNebula.

Sources: OneFlow's service.rb and role.rb, the core's VirtualMachine.h and Image.h, all of 7.4. A cloud may send a
number that is not here: compare its numbers with members, and do not convert them.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ServiceState(IntEnum):
    """The state of a service."""

    PENDING = 0
    DEPLOYING = 1
    RUNNING = 2
    UNDEPLOYING = 3
    WARNING = 4
    DONE = 5
    FAILED_UNDEPLOYING = 6
    FAILED_DEPLOYING = 7
    SCALING = 8
    FAILED_SCALING = 9
    COOLDOWN = 10
    DEPLOYING_NETS = 11
    UNDEPLOYING_NETS = 12
    FAILED_DEPLOYING_NETS = 13
    FAILED_UNDEPLOYING_NETS = 14
    HOLD = 15


class RoleState(IntEnum):
    """The state of a role: 11 means something else than in a service."""

    PENDING = 0
    DEPLOYING = 1
    RUNNING = 2
    UNDEPLOYING = 3
    WARNING = 4
    DONE = 5
    FAILED_UNDEPLOYING = 6
    FAILED_DEPLOYING = 7
    SCALING = 8
    FAILED_SCALING = 9
    COOLDOWN = 10
    HOLD = 11


class VmState(IntEnum):
    """STATE of a VM."""

    INIT = 0
    PENDING = 1
    HOLD = 2
    ACTIVE = 3
    STOPPED = 4
    SUSPENDED = 5
    DONE = 6
    POWEROFF = 8
    UNDEPLOYED = 9
    CLONING = 10
    CLONING_FAILURE = 11


class LcmState(IntEnum):
    """LCM_STATE of an active VM, as far as this code needs it."""

    LCM_INIT = 0
    PROLOG = 1
    BOOT = 2
    RUNNING = 3
    EPILOG = 11
    SHUTDOWN = 12
    CLEANUP_RESUBMIT = 15
    UNKNOWN = 16
    HOTPLUG = 17
    CLEANUP_DELETE = 23
    HOTPLUG_PROLOG_POWEROFF = 33
    HOTPLUG_EPILOG_POWEROFF = 34
    BOOT_FAILURE = 36
    BOOT_MIGRATE_FAILURE = 37
    PROLOG_MIGRATE_FAILURE = 38
    PROLOG_FAILURE = 39
    EPILOG_FAILURE = 40
    EPILOG_STOP_FAILURE = 41
    EPILOG_UNDEPLOY_FAILURE = 42
    PROLOG_MIGRATE_POWEROFF_FAILURE = 44
    PROLOG_MIGRATE_SUSPEND_FAILURE = 46
    BOOT_UNDEPLOY_FAILURE = 47
    BOOT_STOPPED_FAILURE = 48
    PROLOG_RESUME_FAILURE = 49
    PROLOG_UNDEPLOY_FAILURE = 50
    PROLOG_MIGRATE_UNKNOWN_FAILURE = 61


class ImageState(IntEnum):
    """STATE of an image."""

    INIT = 0
    READY = 1
    USED = 2
    DISABLED = 3
    LOCKED = 4
    ERROR = 5
    CLONE = 6
    DELETE = 7
    USED_PERS = 8
    LOCKED_USED = 9
    LOCKED_USED_PERS = 10


class Severity(StrEnum):
    """`severity` of an entry in the log of a service."""

    INFO = "I"
    ERROR = "E"


TRANSIENT = frozenset({
    ServiceState.DEPLOYING, ServiceState.UNDEPLOYING, ServiceState.SCALING, ServiceState.COOLDOWN,
    ServiceState.DEPLOYING_NETS, ServiceState.UNDEPLOYING_NETS,
})  # fmt: skip
FAILED = frozenset(state for state in ServiceState if state.name.startswith("FAILED"))
# States from which a VM can be resumed.
PARKED = frozenset({VmState.STOPPED, VmState.SUSPENDED, VmState.POWEROFF, VmState.UNDEPLOYED})
# A disk of a VM is being attached or detached.
PLUGGING = frozenset({LcmState.HOTPLUG, LcmState.HOTPLUG_PROLOG_POWEROFF, LcmState.HOTPLUG_EPILOG_POWEROFF})
VM_FAILED = frozenset(state for state in LcmState if state.name.endswith("FAILURE"))
# A VM in one of these ends by itself.
VM_ENDING = frozenset({LcmState.EPILOG, LcmState.SHUTDOWN, LcmState.CLEANUP_RESUBMIT, LcmState.CLEANUP_DELETE})
