"""What keeps a SuperNode's machine from taking part, or makes it a burden for the others: looked at, and not changed.

The agent looks at each boot, before it says READY. `oneflower-agent check` looks at any time, and waits for nothing.
"""

from __future__ import annotations

import shutil
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from oneflower_appliance.agent.authority import half_life
from oneflower_appliance.agent.data_summary import summarise
from oneflower_appliance.agent.edge import EDGE_MEMORY, is_edge
from oneflower_appliance.agent.gpu_checks import look_at_gpus
from oneflower_appliance.agent.hardware import total_memory
from oneflower_appliance.checks import FAIL, OK, WARN, Check, Topic
from oneflower_appliance.expiry import warning
from oneflower_appliance.roles import EDGE
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oneflower_appliance.agent.link import Probe
    from oneflower_appliance.values import Settings

_CLOCK_MAY = 5.0  # seconds: Flower accepts no message from further in the future
_CLOCK_MUST = 300.0  # seconds: beyond that it refuses what a node signed
_ROOM = 2 * 10**9  # bytes
_NTP = "Set the clock by NTP: `timedatectl set-ntp true`."


def look_at_superlink(endpoint: str, probe: Probe, through: str = "") -> Iterator[Check]:
    """Yield whether a SuperLink answers, and whether its clock is that of this machine. Raises `OSError`."""
    started = time.monotonic()
    answers = probe.fleet_answers(endpoint)
    took = f"{(time.monotonic() - started) * 1000:.0f} ms"
    way = f" through {through}" if through else ""
    if not answers:
        yield Check(
            FAIL, Topic.SUPERLINK, f"{endpoint} answers, but not as a SuperLink", "Check the address and the port."
        )
        return
    yield Check(OK, Topic.SUPERLINK, f"{endpoint} answers{way} in {took}")
    ahead = probe.clock_difference(endpoint)
    detail = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} that of the SuperLink"
    if abs(ahead) >= _CLOCK_MUST:
        yield Check(FAIL, Topic.CLOCK, f"{detail}: what this machine signs is refused", _NTP)
    elif abs(ahead) > _CLOCK_MAY:
        yield Check(WARN, Topic.CLOCK, detail, _NTP)
    else:
        yield Check(OK, Topic.CLOCK, "as that of the SuperLink, to a few seconds")


def look_at_ca(ca: Path) -> Iterator[Check]:
    """Yield until when the CA of the SuperLink is valid."""
    try:
        newest = x509.load_pem_x509_certificates(ca.read_bytes())[-1]
    except (OSError, ValueError) as error:
        yield Check(FAIL, Topic.CERTIFICATE, f"the CA cannot be read: {error}", "Restart this machine.")
        return
    now, half, ends = datetime.now(UTC), half_life(newest), newest.not_valid_after_utc
    line = warning(ends.date(), now.date(), renewed=now < half + (ends - half) / 2)
    yield Check(WARN if line else OK, Topic.CERTIFICATE, line or f"the CA is trusted, until {ends:%Y-%m-%d}")


def look_at_machine(settings: Settings, home: Path) -> Iterator[Check]:
    """Yield whether the machine has what its settings need: memory, disk, GPU."""
    framework = FRAMEWORKS[settings.text("ML_FRAMEWORK")]
    if memory := total_memory():
        what, need = (f"FL_PROFILE={EDGE}", EDGE_MEMORY) if is_edge(settings) else (framework.title, framework.memory)
        detail = f"{memory >> 20:,} MB; {what} needs {need:,} MB"
        enough = memory >= need * 0.9 * 2**20  # the kernel keeps some of it
        yield Check(OK if enough else WARN, Topic.MEMORY, detail, "" if enough else "Give the machine more memory.")
    existing = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    room = Check(OK, Topic.DISK, f"{free / 1e9:,.1f} GB are free in {home}")
    yield room if free >= _ROOM else Check(WARN, Topic.DISK, room.detail, "Free some, or give the machine more.")
    yield from look_at_gpus(settings)


def look_at_data(folder: Path | None, patience: float) -> Iterator[Check]:
    """Yield what is in the folder with a node's data, and what is wrong with it, within some seconds."""
    if folder is None:
        yield Check(OK, Topic.DATA, "none of its own: the app brings data, or uses its sample")
        return
    found = summarise(folder, patience)
    yield from found or [
        Check(
            WARN, Topic.DATA, f"{folder} could not be looked into: a file may be damaged", "Look at the newest files."
        )
    ]


def refusal(topic: Topic, error: OSError) -> Check:
    """Return the check that failed because there was no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "The address must be in the SuperLink's certificate (FL_CERT_EXTRA_SAN), and its CA the right one."
        return Check(FAIL, Topic.CERTIFICATE, f"not to be trusted: {getattr(error, 'verify_message', error)}", fix)
    fix = getattr(error, "hint", "") or "Let TCP through to that port, or set FL_PROXY to your proxy."
    return Check(FAIL, topic, f"does not answer: {error}", fix)
