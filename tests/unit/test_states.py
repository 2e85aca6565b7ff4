"""The numbers of states, against those of OpenNebula's own client."""

import pyone
import pytest

from oneflower.opennebula.states import LcmState, RoleState, ServiceState, VmState


@pytest.mark.parametrize(("ours", "theirs"), [(VmState, pyone.VM_STATE), (LcmState, pyone.LCM_STATE)])
def test_the_states_of_vms_are_numbered_as_by_opennebulas_client(ours, theirs):
    assert {state.name: state.value for state in ours} == {state.name: theirs[state.name].value for state in ours}


def test_every_failure_of_a_vm_that_opennebulas_client_knows_is_one_here():
    failures = {state.value for state in pyone.LCM_STATE if state.name.endswith("_FAILURE")}
    assert {state.value for state in LcmState if state.name.endswith("FAILURE")} == failures


def test_a_role_has_the_numbers_of_a_service_but_for_hold():
    assert {state.name: state.value for state in RoleState if state is not RoleState.HOLD} == {
        state.name: state.value for state in ServiceState if state <= ServiceState.COOLDOWN
    }
