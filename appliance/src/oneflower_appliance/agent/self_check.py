"""What a SuperNode's machine looks at before it takes part: at each boot, and whenever somebody asks.

At a boot the result is published, and nothing waits for it. `oneflower-agent check` looks at the same without joining:
it sends nothing but a question for the SuperLink's certificate, its health and the time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent import site_checks as look
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.data_folder import data_folder
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.agent.site_policy_file import site_policy
from oneflower_appliance.attributes import CHECKS
from oneflower_appliance.ca_chain import follow_pin
from oneflower_appliance.checks import FAIL, OK, Check, Topic, known_topics, pack, troubles
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.formats import read_pem
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.values import Settings

_AT_BOOT, _IF_ASKED = 3.0, 60.0  # seconds for the data


class SelfCheck:
    """The last look at `machine`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.found: tuple[Check, ...] = ()

    def look(self, endpoint: str, probe: Probe, ca: Path | None, folder: Path | None) -> str:
        """Look, and have the status file and the log say what is not in order. Returns it in a few words."""
        found: list[Check] = []
        try:
            found += look.look_at_superlink(endpoint, probe, _proxy_name(self._machine.settings))
        except OSError as error:
            found.append(look.refusal(Topic.SUPERLINK, error))
        found += look.look_at_ca(ca) if ca else ()
        found += look.look_at_machine(self._machine.settings, self._machine.home)
        found += look.look_at_data(folder, _AT_BOOT)
        self.found = tuple(found)
        wrong = troubles(found)
        self._machine.journal.remark([check.sentence for check in wrong], "checks")
        return f"{len(found)} checks" + (
            f", not in order: {', '.join({each.what: 0 for each in wrong})}" if wrong else ""
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of what is not in order. They may leave the site."""
        return known_topics(check.what for check in troubles(self.found))

    @property
    def published(self) -> dict[str, str]:
        """What is to be published of it."""
        return {CHECKS.name: CHECKS.write(pack(self.found))}


def check_without_joining(settings: Settings, home: Path) -> Iterator[Check]:
    """Yield what a SuperNode with these settings would meet on this machine. Waits for nothing, and never raises."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _superlink(settings, Path(folder) / "ca.crt")
    try:
        policy = site_policy(settings)
        yield Check(OK, Topic.POLICY, policy.summary if policy else "this site has none: every app may run")
    except OneflowerError as error:
        yield Check(FAIL, Topic.POLICY, error.message, error.hint)
    yield from look.look_at_machine(settings, home)
    given = settings.text("FL_DATA_PATH")
    if "{partition}" in given:
        yield Check(OK, Topic.DATA, f"{given}: each node looks at its own, when it boots")
        return
    try:
        folder_of_data = data_folder("FL_DATA_PATH", given, home)
    except OneflowerError as error:
        yield Check(FAIL, Topic.DATA, error.message, error.hint)
        return
    yield from look.look_at_data(folder_of_data, _IF_ASKED)


def _superlink(settings: Settings, ca: Path) -> Iterator[Check]:
    """Yield whether the SuperLink outside this service can be reached, and is the one of the invitation."""
    text = settings.text("FL_INVITATION")
    invitation = Invitation.parse(text) if text else None
    endpoint = settings.text("FL_SUPERLINK_ADDRESS") or (invitation.endpoint if invitation else "")
    if not endpoint:
        yield Check(OK, Topic.SUPERLINK, "that of this machine's own service, which it finds when it boots")
        return
    given = settings.text("FL_PROXY")
    proxy = Proxy.parse(given) if given else None
    try:
        pem = read_pem(settings["FL_SSL_CA_CERTFILE"]) if settings.text("FL_SSL_CA_CERTFILE") else b""
        if invitation and not pem:
            source = f"The CA of the SuperLink at {endpoint}"
            pem = follow_pin(Probe(None, proxy).fetch_ca(endpoint), invitation.ca, source)
        if pem:
            tls.check_ca(pem, "the CA")
            write_atomic(ca, pem)
        elif settings.flag("FL_TLS_ENABLED"):
            yield Check(
                FAIL, Topic.CERTIFICATE, "there is no CA to trust the SuperLink by",
                "Give the invitation, or the SuperLink's ca.crt in FL_SSL_CA_CERTFILE.",
            )  # fmt: skip
            return
        yield from look.look_at_superlink(
            endpoint, Probe(ca if pem else None, proxy if pem else None), _proxy_name(settings)
        )
        yield from look.look_at_ca(ca) if pem else ()
    except OneflowerError as error:
        yield Check(FAIL, Topic.CERTIFICATE, error.message, error.hint)
    except ValueError:  # of the certificate that was given
        yield Check(FAIL, Topic.CERTIFICATE, "FL_SSL_CA_CERTFILE is neither PEM nor base64", "Give the ca.crt.")
    except OSError as error:
        yield look.refusal(Topic.SUPERLINK, error)


def _proxy_name(settings: Settings) -> str:
    """Return the proxy without user and password, empty if there is none."""
    given = settings.text("FL_PROXY")
    return f"the proxy {Proxy.parse(given).address}" if given else ""
