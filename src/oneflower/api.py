"""The two clouds, ready to use, for programs and notebooks.

    from oneflower import Federation, local_cloud

    with Federation.deploy(local_cloud(), supernodes=3) as federation:
        print(federation.run("image-classification").rows[-1].accuracy)

Leaving the block removes the federation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oneflower.cloud import Cloud, Endpoints, Federation, FederationStatus, Logs, RunResult, SiteStatus, VmStatus
from oneflower.cloud.credentials import opennebula_endpoints
from oneflower.cloud.tunnel import SshOptions
from oneflower.clouds import LocalSurroundings, OpenNebulaSurroundings, endpoints_of, home_of
from oneflower.contexts import CloudName, Context, Contexts
from oneflower.events import Step, ignore
from oneflower.opennebula import NAME, ServiceKind
from oneflower_appliance.node_reports import NodeReport
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.run_state import RunState
from oneflower_appliance.runs import RunRow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower.events import Notify
    from oneflower.local.home import LocalHome
    from oneflower_appliance.app_bundle import Bundle

__all__ = [
    "Cloud",
    "Context",
    "Contexts",
    "Federation",
    "FederationStatus",
    "Logs",
    "NodeReport",
    "Phase",
    "RoundState",
    "RunResult",
    "RunRow",
    "RunState",
    "ServiceKind",
    "SiteStatus",
    "VmStatus",
    "connect",
    "local_cloud",
    "opennebula_cloud",
]


def bundled(app: str, version: str, notify: Notify = ignore) -> Bundle:
    """Return the bundle of an app (a folder, a pre-built app or a .fab) as a release of Flower makes it.

    Flower runs in a runtime of this machine, which is prepared if it is not there. Raises `OneflowerError`.
    """
    from oneflower.cloud.app_signing import bundle_of  # noqa: PLC0415

    def flwr() -> Path:
        return LocalSurroundings().flwr(version, PARAMETERS["ML_FRAMEWORK"].default, lambda text: notify(Step(text)))[0]

    return bundle_of(app, flwr, os.environ)


def connect(context: Context, template: str = NAME, tell: Callable[[str], None] = lambda _: None) -> Cloud:
    """Connect to the cloud of a context (`oneflower.contexts`). Otherwise as the functions for the two kinds.

    Raises `OneflowerError`.
    """
    if context.cloud is CloudName.LOCAL:
        return local_cloud(tell, template, home_of(context))
    given = Endpoints(context.oneflow, context.xmlrpc, context.session()) if context.name else None
    return opennebula_cloud(template, tell=tell, endpoints=given)


def local_cloud(
    tell: Callable[[str], None] = lambda _: None, template: str = NAME, home: LocalHome | None = None
) -> Cloud:
    """Connect to this user's local cloud, starting it if necessary. `tell` receives outages.

    `template` names the service template. `home` are the folders, if it is another one than the user's usual one.

    Raises `OneflowerError`.
    """
    from oneflower.local import daemon  # noqa: PLC0415

    surroundings = LocalSurroundings(template, home)
    found = daemon.connect(surroundings.home)
    _bypass_proxies()
    return Cloud(endpoints_of(found), surroundings, tell)


def opennebula_cloud(
    template: str = NAME,
    ssh: SshOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
    endpoints: Endpoints | None = None,
) -> Cloud:
    """Connect to the same OpenNebula as its own tools, or to other `endpoints`. `template` names the service template.

    `tell` receives outages. Raises `OneflowerError` without credentials.
    """
    found = endpoints or opennebula_endpoints()
    return Cloud(found, OpenNebulaSurroundings(template, ssh or SshOptions.of_environment()), tell)


def _bypass_proxies() -> None:
    """Keep pyone, which reads the environment, from sending this machine's own traffic to a proxy."""
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        os.environ["no_proxy"] = ",".join(filter(None, [kept, "127.0.0.0/8"]))
