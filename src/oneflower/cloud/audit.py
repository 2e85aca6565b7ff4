"""The operator's audit log: what somebody did here to federations, and how it ended; in oneflower's home."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower.cloud import superlink
from oneflower.cloud.person import person
from oneflower_appliance.audit import (
    BEGUN,
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    AuditLog,
    Content,
    Head,
    Verdict,
    verify,
)
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.status import FederationStatus

# With one of these an error says that what was asked for was not even begun.
_REFUSALS = (ExitCode.USAGE, ExitCode.INVALID_INPUT, ExitCode.NOT_FOUND, ExitCode.CONFLICT)
_SEEN = "audit.see"  # the entry that remembers the last entry of a SuperLink's log


@contextmanager
def audited(
    cloud: Cloud, action: str, federation: str, *, hindered: bool = True, **more: str
) -> Iterator[dict[str, str]]:
    """Record an action, before it and with its outcome. What is put into the yielded dict is recorded, too.

    Raises `OneflowerError`, and nothing is done, if its beginning cannot be recorded; unless not `hindered`: then
    `Cloud.tell` receives it, as it does if the outcome cannot be recorded.
    """
    where = "this machine" if cloud.endpoints.direct else cloud.endpoints.xmlrpc
    more = {"cloud": where, "cloud_user": cloud.endpoints.login[0], "federation": federation, **more}
    with recorded(cloud.surroundings.audit(), cloud.tell, action, hindered=hindered, **more) as said:
        yield said


@contextmanager
def recorded(
    folder: Path, tell: Callable[[str], object], action: str, *, hindered: bool = True, **more: str
) -> Iterator[dict[str, str]]:
    """Record an action as `audited` does, in the audit log in `folder`, for what is done without a cloud."""
    log = AuditLog(folder)
    said = {"by": person(), **more}
    try:
        log.write(action, BEGUN, **said)
    except OneflowerError as error:
        if hindered:
            message = f"Nothing was done, because it cannot be recorded. {error.message}"
            raise OneflowerError(message, error.hint, error.code) from error
        tell(f"This is not recorded: {error.sentence}")
    outcome = FAILED
    try:
        yield said
        outcome = DONE
    except OneflowerError as error:
        outcome = REFUSED if error.code in _REFUSALS else FAILED
        said["why"] = error.message
        raise
    except KeyboardInterrupt:
        outcome = INTERRUPTED
        raise
    finally:
        try:
            log.write(action, outcome, **said)
        except OneflowerError as error:
            tell(f"That this is {outcome} is not recorded: {error.sentence}")


def read_own(cloud: Cloud) -> Verdict:
    """Read and verify the operator's log. Raises `OneflowerError` if it cannot be read."""
    return verify(AuditLog(cloud.surroundings.audit()).read())


def read_superlinks(cloud: Cloud, status: FederationStatus, own: Verdict) -> Verdict | None:
    """Fetch and verify the log of a federation's SuperLink; None if it keeps none, as an older release.

    What was fetched last time must still be in it. Its last entry is remembered in the operator's log for the next
    time. Raises `OneflowerError`.
    """
    with superlink.reach(cloud.surroundings, status) as link:
        found: Any = link.json("/audit")
    if found is None:
        return None
    try:
        content = Content.parse(found)
    except (KeyError, TypeError, ValueError) as error:
        raise OneflowerError(
            "The SuperLink's audit log cannot be read.", "See `oneflower logs`.", ExitCode.RUN_FAILED
        ) from error
    service = str(status.id)
    seen = [entry for entry in own.entries if entry["action"] == _SEEN and entry.get("service") == service]
    verdict = verify(content, [Head.parse(entry["head"]) for entry in seen[-1:]])
    if not verdict.broken and verdict.head.number and (not seen or seen[-1]["head"] != str(verdict.head)):
        told = {"federation": status.name, "service": service, "head": str(verdict.head)}
        AuditLog(cloud.surroundings.audit()).write(_SEEN, DONE, by=person(), **told)
    return verdict
