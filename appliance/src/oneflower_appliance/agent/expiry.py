"""When the certificates of a SuperLink expire, and what its agent does about it while Flower runs.

It looks once a day. A server certificate that was made here is replaced 30 days before it expires, by the same CA,
while no run is active; on its last day it is replaced in any case. Flower's server reads it again
(`flower/serving.py`), so SuperNodes do not notice. Nor do they when the CA is replaced, as its operator wishes: the
server shows how the CA before leads to it. A given certificate cannot be replaced. It is reported from 14 days before
it expires.
"""

from __future__ import annotations

import datetime
import logging
from typing import TYPE_CHECKING

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import replace_authority
from oneflower_appliance.attributes import CA_CERT, CERT_EXPIRES
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.expiry import warning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oneflower_appliance.orders import CertificateFiles

log = logging.getLogger(__name__)

_DAY = datetime.timedelta(days=1)


class Expiry:
    """Checks `certificates`. They were made here for `names`, or given if there are no names."""

    def __init__(
        self,
        certificates: CertificateFiles,
        names: Sequence[tls.Name],
        clock: Callable[[], datetime.datetime] = tls.current_time,
    ) -> None:
        self._certificates = certificates
        self._names = names
        self._clock = clock
        self._looked: datetime.datetime | None = None
        self._ends: tls.Ends | None = None
        self._ca = ""  # what to publish, once it was replaced

    @property
    def ends(self) -> tls.Ends | None:
        """When they expire, if they could be read."""
        return self._ends

    @property
    def attributes(self) -> dict[str, str]:
        """What the SuperLink publishes about it."""
        if self._ends is None:
            return {}
        ca = {CA_CERT.name: CA_CERT.write(self._ca)} if self._ca else {}
        return ca | {CERT_EXPIRES.name: self._ends.first.date().isoformat()}

    @property
    def remarks(self) -> list[str]:
        """Why the machine counts as degraded, if it does."""
        line = warning(self._ends.first.date(), self._clock().date()) if self._ends else ""
        return [line] if line else []

    def look(self, *, busy: bool) -> bool:
        """Check once a day, and renew what is due. `busy` while a run is active. Returns whether it checked.

        Raises `OneflowerError` when the clock went back to before the certificates, which nobody accepts then.
        """
        now = self._clock()
        if self._ends:
            self._ends.check(now)
        looks = self._looked is None or not _DAY > now - self._looked >= datetime.timedelta(0)
        try:
            if self._names and self._certificates.wish.exists():
                self._replace_ca(now)
                looks = True
            if looks:
                self._looked, self._ends = now, tls.Ends.of(self._certificates)
            if self._names and self._ends and self._ends.are_due(now) and not (busy and self._ends.server - now > _DAY):
                tls.make_certificates(self._certificates.ca.parent, self._names, now)
                self._ends, looks = tls.Ends.of(self._certificates), True
                log.info("The server certificate was renewed. It expires on %s.", self._ends.server.date())
        except OneflowerError as error:
            log.warning("The certificates cannot be checked: %s", error.sentence)
        return looks

    def _replace_ca(self, now: datetime.datetime) -> None:
        folder = self._certificates.ca.parent
        replace_authority(folder, now)
        tls.make_certificates(folder, self._names, now)
        self._certificates.wish.unlink()
        self._ca = self._certificates.ca.read_text(encoding="ascii")
        log.info("The CA was replaced by another one, which it signed.")
