"""Which CA a SuperNode trusts its SuperLink by: the one it was given, or the published one, which it then keeps."""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import CA, TLS_FOLDER, half_life
from oneflower_appliance.agent.discovery import PATIENCE, backoff
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.agent.systemd import rest
from oneflower_appliance.attributes import CA_CERT, NOTHING, TLS
from oneflower_appliance.ca_chain import continues, fingerprint, follow_pin, load
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.formats import read_pem
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.proxy import ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.agent.discovery import Found
    from oneflower_appliance.agent.machine import Machine

T = TypeVar("T")

log = logging.getLogger(__name__)

_HINT = "Check that the network between the machines lets TCP through to that port."
_AGAIN = timedelta(hours=1)
_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


class Trust:
    """What the SuperNode on `machine` trusts. `probe` is how it asks the SuperLink with a CA."""

    def __init__(self, machine: Machine, probe: Callable[[Path | None], Probe] = Probe) -> None:
        self._machine = machine
        self._probe = probe
        self._again = datetime.min.replace(tzinfo=UTC)  # when the SuperLink is asked for its CA again

    @property
    def path(self) -> Path | None:
        """The certificate of the CA, None where TLS is switched off."""
        return self._path if self._machine.settings.flag("FL_TLS_ENABLED") else None

    def settle(self, found: Found) -> str:
        """Trust the CA of a SuperLink, or raise `OneflowerError`. Returns what was done, in a few words."""
        settings = self._machine.settings
        if not settings.flag("FL_TLS_ENABLED"):
            if TLS.is_set(found.published):
                raise OneflowerError(
                    "The SuperLink speaks TLS and FL_TLS_ENABLED is NO here.",
                    "Set FL_TLS_ENABLED on the service level only.",
                    ExitCode.CLOUD,
                )
            return "TLS is switched off (FL_TLS_ENABLED=NO)"
        given = settings.text("FL_SSL_CA_CERTFILE")
        if not given and (invitation := settings.text("FL_INVITATION")):
            return self._follow(found.endpoint, Invitation.parse(invitation).ca)
        source = "FL_SSL_CA_CERTFILE" if given else "FL_CA_CERT, as the SuperLink published it"
        encoded = given or found.published.get(CA_CERT.name, NOTHING)
        if encoded == NOTHING:
            raise OneflowerError(
                "There is no CA certificate to trust the SuperLink by, and this SuperNode does not start without.",
                "Set FL_SSL_CA_CERTFILE to the SuperLink's ca.crt.",
                ExitCode.INVALID_INPUT if found.vm is None else ExitCode.CLOUD,
            )
        try:
            pem = read_pem(encoded)
            tls.check_ca(pem, source)
        except ValueError as error:
            raise OneflowerError(
                f"{source} is neither PEM nor base64.",
                "Recover the SuperLink's VM.",
                ExitCode.INVALID_INPUT if given else ExitCode.CLOUD,
            ) from error
        except OneflowerError as error:
            if not given and error.code is ExitCode.INVALID_INPUT:  # what is published may be right the next time
                raise OneflowerError(error.message, error.hint, ExitCode.CLOUD) from error
            raise
        pin = _pin(str(found.vm), pem)
        if not given and found.vm is not None:
            self._check_pin(pin, pem)
        write_atomic(self._path, pem, SHARED)
        self._greet(found.endpoint)
        if not given and found.vm is not None:
            write_atomic(self._pin_path, pin)
        return f"the CA from {source.split(',', maxsplit=1)[0]}"

    def follow(self, endpoint: str) -> float:
        """Trust the CA that has taken the place of the one that is trusted now, if that one signed it.

        The SuperLink is asked only when half of the life of the CA is over, for then it has another one. Returns in how
        many seconds to look again.
        """
        settings = self._machine.settings
        given = settings.text("FL_SSL_CA_CERTFILE")
        if not settings.flag("FL_TLS_ENABLED") or given or not self._path.exists():
            return _AGAIN.total_seconds()
        try:
            self._look(endpoint)
        except OSError as error:
            log.debug("The SuperLink cannot be asked for its CA: %s", error)
        except OneflowerError as error:
            self._again = tls.current_time() + _AGAIN
            log.warning("%s", error.sentence)
        return (self._again - tls.current_time()).total_seconds()

    def _look(self, endpoint: str) -> None:
        now = tls.current_time()
        self._again = min(self._again, now + _AGAIN)  # also after the clock was ahead
        if now < self._again:
            return
        before = self._path.read_bytes()
        last = load(before, str(self._path))[-1]
        half, end = half_life(last), last.not_valid_after_utc
        if now < half:
            self._again = min(half, now + _AGAIN)
            return
        self._again = now + min((end - half) / 8, _AGAIN)
        after = self._probe(None).fetch_ca(endpoint)
        if after == before:
            return
        with suppress(OneflowerError):  # older ones, which are not known here, may come first
            after = after if continues(before, after) else follow_pin(after, fingerprint(last), endpoint)
        if not continues(before, after):
            log.warning("The SuperLink shows a CA that the one which is trusted here did not sign. It is ignored.")
            return
        tls.check_ca(after, f"The CA of the SuperLink at {endpoint}")
        with suppress(OSError, ValueError):
            known, _ = self._pin_path.read_text(encoding="ascii").split()
            write_atomic(self._pin_path, _pin(known, after))  # first: after a crash in between, it is still followed
        write_atomic(self._path, after, SHARED)
        log.info("The SuperLink has another CA, which the one before signed. It is trusted from now on.")
        self._again = min(half_life(load(after, str(self._path))[-1]), now + _AGAIN)

    def _follow(self, endpoint: str, pin: str) -> str:
        """Trust the CA whose fingerprint the invitation names, and what followed it."""
        source = f"The CA of the SuperLink at {endpoint}"
        pem = self._reach(endpoint, lambda: self._probe(None).fetch_ca(endpoint))
        if not continues(self._followed(pin), pem):
            pem = follow_pin(pem, pin, source)
        tls.check_ca(pem, source)
        write_atomic(self._pin_path, _pin(pin, pem))
        write_atomic(self._path, pem, SHARED)
        self._greet(endpoint)
        return f"the CA that the invitation names, {pin[:16]}..."

    def _followed(self, pin: str) -> bytes:
        """Return what has been trusted so far by an invitation that names the CA `pin`, if anything."""
        with suppress(OSError, ValueError):
            known, ca = self._pin_path.read_text(encoding="ascii").split()
            if known == pin:
                return self._kept(ca)
        return b""

    def _check_pin(self, pin: str, pem: bytes) -> None:
        """Refuse another CA than the one that this VM has trusted before, from the same VM, unless that one signed it.

        A SuperLink that OneFlow replaced is another VM, as OneFlow reports; no other VM can fake that.
        """
        try:
            vm, ca = self._pin_path.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return
        if pin != f"{vm} {ca}" and pin.startswith(f"{vm} "):
            if continues(self._kept(ca), pem):
                write_atomic(self._pin_path, pin)  # before the certificate: a crash in between loses nothing
                return
            raise OneflowerError(
                f"The SuperLink's VM {vm} published another CA certificate than the one that this SuperNode has "
                "trusted so far.",
                "Another VM of the service may have changed it: restart the SuperLink's VM, which publishes its own "
                f"again. If that VM was created again with an empty disk, accept its CA: delete {self._pin_path} here.",
                ExitCode.CONFLICT,
            )

    def _kept(self, digest: str) -> bytes:
        """Return the CA that was trusted so far; nothing if it is not the one with this digest."""
        try:
            pem = self._path.read_bytes()
        except OSError:
            return b""
        return pem if hashlib.sha256(pem).hexdigest() == digest else b""

    @property
    def _path(self) -> Path:
        return self._machine.home / TLS_FOLDER / CA

    @property
    def _pin_path(self) -> Path:
        return self._machine.home / TLS_FOLDER / "superlink.pin"

    def _greet(self, endpoint: str) -> None:
        probe = self._probe(self.path)

        def answers() -> bool:
            if probe.fleet_answers(endpoint):
                return True
            raise OSError("it answers, but not as a Fleet API")

        self._reach(endpoint, answers)

    def _reach(self, endpoint: str, ask: Callable[[], T]) -> T:
        """Return what the SuperLink answers, as soon as it does. `OSError` means not yet."""
        deadline = time.monotonic() + PATIENCE
        for delay in backoff(self._machine.settings).delays():
            try:
                return ask()
            except ssl.SSLCertVerificationError as error:
                raise _untrusted(endpoint, error) from error
            except ProxyError as error:
                reason, hint = str(error), error.hint
                if error.wants_password:
                    raise _unreachable(endpoint, reason, hint, ExitCode.INVALID_INPUT) from error
            except OSError as error:
                reason, hint = str(error), _HINT
            if time.monotonic() + delay > deadline:
                raise _unreachable(endpoint, reason, hint, ExitCode.CLOUD)
            self._machine.journal.waiting(f"The SuperLink at {endpoint} does not answer: {reason}. Trying again.")
            rest(delay)
        raise AssertionError  # delays never end


def _pin(source: str, pem: bytes) -> str:
    """Return what is noted of a CA: by what it is trusted, and the SHA-256 of its file."""
    return f"{source} {hashlib.sha256(pem).hexdigest()}"


def _unreachable(endpoint: str, reason: str, hint: str, code: ExitCode) -> OneflowerError:
    return OneflowerError(f"The SuperLink at {endpoint} does not answer: {reason}.", hint, code)


def _untrusted(endpoint: str, error: ssl.SSLCertVerificationError) -> OneflowerError:
    if error.verify_code in _TIME:
        return OneflowerError(
            f"The certificate of the SuperLink at {endpoint} is not valid by the clock of this machine, which says "
            f"{tls.current_time():%Y-%m-%d %H:%M} UTC: {error.verify_message}.",
            tls.CLOCK,
            ExitCode.CLOUD,
        )
    return OneflowerError(
        f"The certificate of the SuperLink at {endpoint} is not to be trusted: {error.verify_message}.",
        "Give this SuperNode the ca.crt of that very SuperLink, and name its address in the certificate "
        "(FL_CERT_EXTRA_SAN). Nothing is sent in plaintext.",
        ExitCode.CLOUD,
    )
