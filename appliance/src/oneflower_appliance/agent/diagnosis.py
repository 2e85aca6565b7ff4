"""Why a Flower process ended or has to be ended, told from its last lines and its exit status."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Sequence

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


_REFUSED = (
    r"Invalid SuperNode authentication|401 Unauthorized|must be registered via the CLI|code: 2004"
    r"|Failed to activate SuperNode"
)
_CAUSES = (
    (r"Errno 98|address already in use",
     "A port that Flower needs is already in use on this machine.", "Stop the program that listens there."),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
     "The SuperLink's certificate is not signed by the CA that this machine trusts.",
     "Give this SuperNode the ca.crt of that SuperLink (FL_SSL_CA_CERTFILE), or none, to use the published one."),
    (r"unable to open database file|disk I/O error|readonly database|disk is full|No space left|Read-only file system",
     "Flower cannot write its state.", "Free disk space, or let FL_DATABASE point to a folder that can be written."),
)  # fmt: skip


def explain(tail: Sequence[str], status: int | None) -> OneflowerError:
    """Return why a Flower process ended, from its last lines and its exit status."""
    text = "\n".join(tail)
    if re.search(_REFUSED, text):
        return RefusedError()
    for pattern, message, hint in _CAUSES:
        if re.search(pattern, text):
            return OneflowerError(message, hint, ExitCode.ENVIRONMENT)
    how = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with exit status {status}"
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    return OneflowerError(
        f"Flower {how}: {last.strip()[:300]}",
        "The lines before it are in the agent's log (`oneflower logs`).",
        ExitCode.ENVIRONMENT,
    )
