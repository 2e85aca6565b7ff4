"""When the certificates of a SuperLink expire, and what its agent does about it while Flower runs.

What was made here is replaced when half of its life is over: the server certificate by another one of the same CA, and
the CA by another one that it signs. The CA is replaced when its operator wishes it, too. Flower's server reads the
files again (`flower/serving.py`) and shows how the CA before leads to this one, so no connection fails, and SuperNodes
have the other half of its life to follow (`trust.py`). A given certificate cannot be replaced. It is reported from 14
days before it expires.
"""

from __future__ import annotations

import datetime
import logging
from typing import TYPE_CHECKING

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import USUAL, Lifetimes, replace_authority
from oneflower_appliance.attributes import CA_CERT, CERT_EXPIRES, CERT_RENEWED
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.expiry import warning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oneflower_appliance.orders import CertificateFiles

log = logging.getLogger(__name__)

_DAY, _HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


class Expiry:
    """Checks `certificates`. They were made here for `names`, or given if there are no names."""

    def __init__(
        self,
        certificates: CertificateFiles,
        names: Sequence[tls.Name],
        clock: Callable[[], datetime.datetime] = tls.current_time,
        lifetimes: Lifetimes = USUAL,
    ) -> None:
        self._certificates = certificates
        self._names = names
        self._clock = clock
        self._lifetimes = lifetimes
        self._begun = clock()
        self._looked: datetime.datetime | None = None
        self._ends: tls.Ends | None = None
        self._ca = ""  # what to publish, once it was replaced
        self._trouble = ""  # why something that is due cannot be replaced
        self._unfinished = False  # whether the CA was replaced, and the server certificate not yet

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
        renewed = {CERT_RENEWED.name: CERT_RENEWED.flag(value=bool(self._names))}
        return ca | renewed | {CERT_EXPIRES.name: self._ends.first.date().isoformat()}

    @property
    def remarks(self) -> list[str]:
        """Why the machine counts as degraded, if it does."""
        line = warning(self._ends.first.date(), self._clock().date(), renewed=bool(self._names)) if self._ends else ""
        return [said for said in (line, self._trouble) if said]

    def look(self) -> bool:
        """Check once a day, and replace what is due. Returns whether it checked.

        Raises `OneflowerError` when the clock went back to before the certificates, which nobody accepts then.
        """
        now = self._clock()
        if self._ends:
            self._ends.check(now)
        looks = self._looked is None or not _DAY > now - self._looked >= datetime.timedelta(0)
        trouble, self._trouble = self._trouble, ""
        try:
            if looks:
                self._looked, self._ends = now, tls.Ends.of(self._certificates)
            if self._names and self._ends:
                looks |= self._renew(self._ends, now)
        except (OneflowerError, OSError) as error:
            said = error.sentence if isinstance(error, OneflowerError) else f"{error}."
            self._trouble = f"The certificates cannot be looked after: {said}"
        return looks or self._trouble != trouble

    def _is_settled(self, now: datetime.datetime) -> bool:
        """Whether the clock may be believed: a machine that has just booted may have a wrong one for a while."""
        return now - self._begun >= min(_HOUR, self._lifetimes.ca / 8)

    def _renew(self, ends: tls.Ends, now: datetime.datetime) -> bool:
        """Replace what is due. Returns whether anything was."""
        folder, wish = self._certificates.ca.parent, self._certificates.wish
        if wish.exists() or (self._is_settled(now) and ends.is_due_to_follow(now)):
            replace_authority(folder, now, self._lifetimes)
            wish.unlink(missing_ok=True)
            self._unfinished, self._ends = True, tls.Ends.of(self._certificates)
        elif not (self._unfinished or ends.is_due(now)):
            return False
        tls.make_certificates(folder, self._names, now, self._lifetimes)
        self._ends = tls.Ends.of(self._certificates)
        if self._unfinished:
            self._unfinished = False
            self._ca = self._certificates.ca.read_text(encoding="ascii")
            log.info("The CA was replaced by another one, which it signed. It expires on %s.", self._ends.ca.date())
        else:
            log.info("The server certificate was renewed. It expires on %s.", self._ends.server.date())
        return True
