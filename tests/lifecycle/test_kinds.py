"""The lifecycle of a coordinator and of a site, on the cloud that `conftest` found."""

from __future__ import annotations

import pytest

from oneflower.cloud import Federation, RefusedError
from oneflower.cloud.surroundings import Installed
from oneflower.opennebula import COORDINATOR, NODES, ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import InvalidParametersError

from .conftest import PATIENCE

JOINS = {"FL_SUPERLINK_ADDRESS": "10.0.0.5:9092", "FL_SSL_CA_CERTFILE": "", "FL_TLS_ENABLED": "NO",
         "FL_SUPERNODE_AUTH": "NO"}  # fmt: skip


@pytest.fixture(params=[ServiceKind.COORDINATOR, ServiceKind.SITE])
def kind(world, request):
    with world.template_with(kind=request.param):
        yield request.param


def test_it_is_deployed_shown_scaled_and_removed_by_its_own_role_alone(world, kind):
    settings = JOINS if kind is ServiceKind.SITE else {"FL_NUM_ROUNDS": "7"}
    with world.guests(), world.federation("half", **settings) as made:
        status = made.wait_ready(PATIENCE)
        [role] = kind.roles
        assert (status.kind, list(status.roles), {vm.role for vm in status.vms}) == (kind, [role], {role})
        assert made.id in {each.id for each in Federation.all(world.cloud)}
        context = world.context(status.vms[0].id)
        assert set(settings.items()) <= set(context.items())
        assert "SuperNode" not in " ".join((*status.remarks, status.share, status.failure))
        if kind is ServiceKind.SITE:
            assert (status.supernodes, status.endpoint) == (1, "10.0.0.5:9092")
            assert "FL_NUM_ROUNDS" not in context
            assert made.scale(3, PATIENCE).supernodes == 3
            with pytest.raises(OneflowerError, match="cannot have 0 SuperNodes: it was deployed for 1 to 10"):
                made.scale(0)
            with pytest.raises(OneflowerError, match=r"is a site: its SuperNodes train for the coordinator at 10\.0"):
                made.run("image-classification")
        else:
            assert context["ML_FRAMEWORK"] == "sklearn", "no SuperNode is there to name it"
            assert status.supernodes == 0
            with pytest.raises(OneflowerError, match="is a coordinator, which has no SuperNodes") as caught:
                made.scale(3)
            assert caught.value.code is ExitCode.CONFLICT
            with pytest.raises(RefusedError):
                world.cloud.oneflow.scale_service(made.id, COORDINATOR, 2)
        made.delete(PATIENCE)
        assert world.cloud.oneflow.service(made.id) is None
        assert world.cloud.core.vms([vm.id for vm in status.vms]) == {}


def test_what_is_not_for_it_or_missing_is_said_at_once_and_nothing_is_started(world, kind):
    wrong = {
        ServiceKind.SITE: {"FL_NUM_ROUNDS": "3", "FL_MIN_FIT_CLIENTS": "x", "FL_USE_CASE": "image-classification"},
        ServiceKind.COORDINATOR: {"FL_DATA_PATH": "/data", "FL_SUPERLINK_ADDRESS": "10.0.0.5:9092"},
    }[kind]
    with pytest.raises(InvalidParametersError) as caught:
        world.begin("wrong", **wrong)
    missing = {"FL_SUPERLINK_ADDRESS", "FL_SSL_CA_CERTFILE"} if kind is ServiceKind.SITE else set()
    assert {problem.where for problem in caught.value.problems} == {*wrong, *missing}
    if kind is ServiceKind.COORDINATOR:
        with pytest.raises(OneflowerError, match="A coordinator has no SuperNodes of its own"):
            Federation.check(world.cloud, supernodes=3)
    assert not [each for each in Federation.all(world.cloud) if each.name.endswith("-wrong")]


def test_the_gate_of_a_coordinator_opens_when_its_superlink_is_ready_and_a_failed_half_says_why(world, kind):
    with world.federation("gate", **(JOINS if kind is ServiceKind.SITE else {})) as made:
        [role] = kind.roles
        [vm] = world.until(lambda: world.nodes(made, role))
        world.report(vm, FL_ERROR="bm8gQ0E=")
        assert world.state(made) == 1
        assert made.status().failure == f"{role}_0: no CA"
        world.ready(made)
        assert made.status().ready


def test_the_kind_of_a_service_is_read_from_its_roles_even_if_the_template_has_another_name(world):
    with world.template_with(lambda body: body["roles"].pop(0) and body["roles"][0].pop("parents")):
        assert Federation.check(world.cloud, settings=JOINS) == ()
        with world.guests(), world.federation("roles", **JOINS) as made:
            status = made.wait_ready(PATIENCE)
            assert (status.kind, status.supernodes) == (ServiceKind.SITE, 2)
            assert list(status.roles) == [NODES]
            assert isinstance(made.installed(status), Installed)
