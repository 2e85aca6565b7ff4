"""How long a SuperNode may be silent: it tells its SuperLink with each heartbeat, and sends them as often as before."""

import pytest

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.patience import be_patient
from oneflower_appliance.flower.warm.pulse import HEARTBEAT, Pulse


@pytest.fixture(autouse=True)
def _unchanged(monkeypatch):
    module = internals.fleet_connection()
    monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", module.HEARTBEAT_DEFAULT_INTERVAL)


def test_the_interval_that_is_announced_is_half_of_the_silence_that_is_allowed():
    from flwr.supercore import heartbeat

    before = heartbeat.HEARTBEAT_DEFAULT_INTERVAL
    be_patient(180)
    assert internals.fleet_connection().HEARTBEAT_DEFAULT_INTERVAL == 90
    assert before == heartbeat.HEARTBEAT_DEFAULT_INTERVAL, "what Flower's sender waits between two"
    assert internals.constants().HEARTBEAT_MIN_INTERVAL <= 90 <= internals.constants().HEARTBEAT_MAX_INTERVAL


def test_a_request_that_counts_as_a_heartbeat_announces_the_same():
    from types import SimpleNamespace

    be_patient(240)
    context = SimpleNamespace(rpc_method="/flwr.proto.Fleet/PullMessages", request=SimpleNamespace(headers={}))
    answer = SimpleNamespace(headers={}, is_success=True)
    Pulse(lambda _sent: None).intercept(context, lambda _context: answer)
    assert float(context.request.headers[HEARTBEAT]) == 120
