"""Checks, before anybody connects to a SuperLink, that it published its attributes itself.

Every VM of a service can write the attributes of every other one, so a member could lead the operator to a SuperLink of
its own. There are three checks. The addresses must be those that OpenNebula gave the VM, or that the form names. The
proof (see `oneflower_appliance.proof`) must be valid, which only the user who created the VM can verify. For all other
users, what was published at the first connection is kept in a file, and must not change.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower.opennebula.tokens import SHORTEST_PASSWORD, make_token
from oneflower_appliance.attributes import CA_CERT, CERT_EXPIRES, CERT_RENEWED, CONTROL_ENDPOINT, ENDPOINT, VERSION
from oneflower_appliance.ca_chain import continues
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.formats import split_address
from oneflower_appliance.proof import PROVEN, proves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.objects import Vm

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CHANGING = (VERSION.name, CERT_EXPIRES.name, CERT_RENEWED.name)  # as time goes by, without another SuperLink


@dataclass(frozen=True)
class Trust:
    """Whether what a SuperLink published can be trusted. `refusal` is why not; `note` is what the user should know.

    `pin` is the file that holds `pinned` from the first connection on, if there is no proof.
    """

    refusal: str = ""
    hint: str = ""
    note: str = ""
    pin: Path | None = None
    pinned: str = field(default="", repr=False)

    def check(self) -> None:
        """Raise `OneflowerError` if what the SuperLink published must not be trusted. Otherwise write the pin."""
        if self.refusal:
            raise OneflowerError(self.refusal, self.hint, ExitCode.CONFLICT)
        if self.pin is not None:
            write_atomic(self.pin, self.pinned)


def trust(cloud: Cloud, service: int, name: str, link: Vm) -> Trust:
    """Return whether what the SuperLink on `link` published can be trusted. Raises `OneflowerError`."""
    if foreign := _foreign_address(link):
        return _tampered(foreign, name)
    me, password = cloud.core.token_password
    if link.creator == me and len(password) >= SHORTEST_PASSWORD:
        if proves(make_token(password, link.id, link.started), link.id, link.attributes):
            return Trust()
        what = "does not carry the proof that only this VM can make"
        return _tampered(f"What the SuperLink's VM {link.id} published {what}.", name)
    return _by_pin(cloud, service, name, link)


def _tampered(what: str, name: str) -> Trust:
    return Trust(
        what,
        "Another VM of the service may have changed it, so nothing is sent there. Restart the SuperLink's VM of "
        f"{name}, which publishes it again. If its image has an older oneflower than this client, deploy from a "
        "current one.",
    )


def _foreign_address(link: Vm) -> str:
    """Return which published address is not the VM's own, if there is one."""
    for attribute, setting, own in (
        (ENDPOINT.name, "FL_FLEET_API_ADDRESS", frozenset(link.addresses)),
        (CONTROL_ENDPOINT.name, "FL_CONTROL_API_ADDRESS", _LOOPBACK.union(link.addresses)),
    ):
        published = link.attributes.get(attribute, "")
        allowed = set(own)
        with suppress(ValueError):
            allowed.add(split_address(link.context.get(setting, ""))[0])
        try:
            host = split_address(published)[0]
        except ValueError:
            return f"{attribute} of the SuperLink's VM {link.id} is not an address: {published[:100]!r}."
        if host not in allowed:
            return f"{attribute} of the SuperLink's VM {link.id} names {host}, which is not an address of that VM."
    return ""


def _follows(before: str, known: Mapping[str, str], vm: int) -> bool:
    """Whether only the CA differs from what was pinned, and the one that was trusted so far signed it."""
    try:
        said = json.loads(before)
        same = {**said, CA_CERT.name: ""} == {"vm": vm, **known, CA_CERT.name: ""}
        return same and continues(CA_CERT.read(said).encode(), CA_CERT.read(known).encode())
    except (ValueError, TypeError, AttributeError):
        return False


def _by_pin(cloud: Cloud, service: int, name: str, link: Vm) -> Trust:
    known = {attribute: link.attributes.get(attribute, "") for attribute in PROVEN if attribute not in _CHANGING}
    pinned = json.dumps({"vm": link.id, **known}, indent=1) + "\n"
    place = hashlib.sha256(f"{cloud.endpoints.xmlrpc} {service} {name}".encode()).hexdigest()[:16]
    pin = cloud.surroundings.pins() / f"{service}-{place}.json"
    try:
        before = pin.read_text(encoding="utf-8")
    except OSError:
        note = f"Only the user who created {name} can check who published its addresses; they are trusted on first use."
        return Trust(note=note, pin=pin, pinned=pinned)
    if before == pinned:
        return Trust()
    if _follows(before, known, link.id):
        return Trust(pin=pin, pinned=pinned)
    return Trust(
        f"The SuperLink of {name} published other addresses, keys or certificates than when it was used first.",
        "Another VM of the service may have changed them, so nothing is sent there. If its VM was created "
        f"again, accept that: delete {pin}.",
    )
