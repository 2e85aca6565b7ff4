"""The gate of a site: what its policy does not allow is refused in the SuperNode's process, before it is unpacked.

The SuperNode gets a message, and asks for the app of its run. Here both pass: the hours when a message comes, the app
when its bundle comes. What is not allowed is answered with an error that has the reason. The bundle is not kept, and
no task is made for it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from typing import TYPE_CHECKING, Any

from oneflower_appliance.app_bundle import Bundle, BundleError
from oneflower_appliance.audit import DONE, REFUSED
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.nodeloop import Noted
from oneflower_appliance.site_policy import NotApprovedError, PolicyError, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.flower.holding import Holding
    from oneflower_appliance.flower.site_record import SiteRecord
    from oneflower_appliance.site_policy import SitePolicy

log = logging.getLogger("flwr")


def keep_to(policy: SitePolicy, holding: Holding, record: SiteRecord) -> None:
    """Make the loop of this process's SuperNode keep to a policy. Nothing may have changed the loop before.

    `holding` holds runs whose app was not approved yet. `record` gets what is decided.
    """
    loop = internals.node_loop()
    pull = loop._pull_and_store_message  # noqa: SLF001 - there is no other way in

    @functools.wraps(pull)
    def pulling(
        *, state: Any, object_store: Any, receive: Any, get_run: Any, get_fab: Any, **arguments: Any
    ) -> int | None:
        received = Noted(receive)
        try:
            run_id: int | None = pull(
                state=state,
                object_store=object_store,
                receive=_in_time(received, policy),
                get_run=_of_a_kind(get_run, policy),
                get_fab=_allowed(get_fab, policy, get_run, holding, record),
                **arguments,
            )
        except PolicyError as error:
            message = received.answer[0]
            record.note("policy.refuse", REFUSED, message.metadata.run_id, why=str(error))
            log.warning("Run %d is refused by the policy of this site: %s", message.metadata.run_id, error)
            loop._insert_message(_refusal(message, error), state, object_store)  # noqa: SLF001
            return int(message.metadata.run_id)
        return run_id

    loop._pull_and_store_message = pulling  # noqa: SLF001
    log.info("This SuperNode keeps to the policy %s of its site.", policy.digest)


def _in_time(receive: Callable[[], Any], policy: SitePolicy) -> Callable[[], Any]:
    def receiving() -> Any:
        found = receive()
        if found is not None:
            policy.check_time(now())
        return found

    return receiving


def _of_a_kind(get_run: Callable[[int], Any], policy: SitePolicy) -> Callable[[int], Any]:
    """Refuse runs whose tasks are not of ClientApps: these would not be confined."""

    def getting(run_id: int) -> Any:
        run = get_run(run_id)
        if policy.task and run.primary_task_type != internals.core_constants().TaskType.SERVER_APP:
            raise PolicyError("This site confines tasks, so it allows only runs of a ServerApp with ClientApps.")
        return run

    return getting


def _allowed(
    get_fab: Callable[[str, int], Any],
    policy: SitePolicy,
    get_run: Callable[[int], Any],
    holding: Holding,
    record: SiteRecord,
) -> Callable[[str, int], Any]:
    def getting(fab_hash: str, run_id: int) -> Any:
        fab = get_fab(fab_hash, run_id)
        if not fab.hash_str == fab_hash == hashlib.sha256(fab.content).hexdigest():
            raise PolicyError("This site does not allow this app: the SuperLink sent another one than it named.")
        try:
            bundle = Bundle.read(fab.content)
            try:
                why = policy.check_app(bundle, now())
            except NotApprovedError:
                if not holding.hold(bundle, run_id, lambda: get_run(run_id)):
                    raise
                why = "the operator of this site approved it"
                policy.check_time(now())
        except BundleError as error:
            raise PolicyError(f"This site does not allow this app: {error}.") from error
        record.note("policy.allow", DONE, run_id, app=bundle.label, content=bundle.content_hash, why=why)
        log.info("The policy of this site allows the app of run %d: %s.", run_id, why)
        return fab

    return getting


def _refusal(message: Any, error: PolicyError) -> Any:
    from flwr.app import Error, Message  # noqa: PLC0415 - Flower is imported when it is needed

    code = internals.node_loop().FAB_VERIFICATION_ERROR.code
    return Message(Error(code, str(error)), reply_to=message)
