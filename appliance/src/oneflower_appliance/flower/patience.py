"""For how long a SuperNode may be silent before its SuperLink counts it as offline (FL_OFFLINE_AFTER).

Flower's nodes say with each heartbeat when the next one comes, and are offline after twice that time. A node that is
offline loses its message and what it has sent of its reply. Over a long line, a cut of a minute is nothing unusual. A
node there announces a longer time, and sends its heartbeats as often as before.
"""

from __future__ import annotations

from oneflower_appliance.flower import internals


def be_patient(seconds: int) -> None:
    """Have the SuperLink wait so long for a sign of life of this process's SuperNode."""
    patience = internals.constants().HEARTBEAT_PATIENCE
    internals.fleet_connection().HEARTBEAT_DEFAULT_INTERVAL = seconds / patience
