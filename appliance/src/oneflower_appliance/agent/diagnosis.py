"""Why a Flower process ended, told from its exit status, or has to be ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.orders import Ending

if TYPE_CHECKING:
    from oneflower_appliance.process import Child

EARLIEST, LATEST = -4.0, 304.0  # of a signature's age in seconds, at its SuperLink (-5 and 305, less the rounding)


class HungError(OneflowerError):
    """Flower runs and does not do its work any more, so it has to be started again."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, "It is started again; see `oneflower logs` if that does not help.", ExitCode.ENVIRONMENT
        )


class RefusedError(OneflowerError):
    """The SuperLink refused what a SuperNode signed: a wrong clock, or a key that it does not know (any more)."""

    def __init__(self) -> None:
        super().__init__(
            "The SuperLink refused a signed request of this SuperNode.",
            "Check that the clocks of the two machines agree (NTP) and that the SuperLink knows this SuperNode's key: "
            "`flwr supernode register` makes it known.",
            ExitCode.ENVIRONMENT,
        )


_CAUSES = {
    Ending.ADDRESS_TAKEN: (
        "A port that Flower needs is already in use on this machine.", "Stop the program that listens there.",
    ),
    Ending.UNTRUSTED: (
        "The SuperLink's certificate is not signed by the CA that this machine trusts.",
        "Give this SuperNode the ca.crt of that SuperLink (FL_SSL_CA_CERTFILE), or none, to use the published one.",
    ),
    Ending.NO_STATE: (
        "Flower cannot write its state.", "Free disk space, or let FL_DATABASE point to a folder that can be written.",
    ),
}  # fmt: skip


def explain(child: Child) -> OneflowerError:
    """Return why a Flower process ended, by its exit status. Its last line is told where the status says nothing.

    A signal comes from outside, so the last line of a process that was ended by one has nothing to do with it.
    """
    status = child.status
    if status == Ending.REFUSED:
        return RefusedError()
    if status in _CAUSES:
        return OneflowerError(*_CAUSES[Ending(status)], ExitCode.ENVIRONMENT)
    if status is not None and status < 0:
        return OneflowerError(
            f"Flower was ended from outside, by signal {-status}.",
            "It is started again. If it happens often, give the machine more memory: the kernel ends processes when "
            "there is too little (signal 9).",
            ExitCode.ENVIRONMENT,
        )
    return OneflowerError(
        f"Flower ended with exit status {status}: {child.last_line()[:300]}",
        "The lines before it are in the agent's log (`oneflower logs`).",
        ExitCode.ENVIRONMENT,
    )
