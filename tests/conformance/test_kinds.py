"""A coordinator and a site, deployed from what Sunstone posts for their templates."""

from __future__ import annotations

import pytest

from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    Rendering,
    ServiceKind,
    ServiceOptions,
    service_template,
    variables_of,
)
from oneflower_appliance.parameters import PARAMETERS

from .fireedge import posted_for
from .test_sunstone import Cloud

CERTIFICATE = "-----BEGIN CERTIFICATE-----\\nmine\\n-----END CERTIFICATE-----\\n"
FILLED = {
    (ServiceKind.SITE, Rendering.FORM): {
        "ONEAPP_FLOWER_JOIN_ADDRESS": "10.0.0.5:9092",
        "ONEAPP_FLOWER_JOIN_CA": CERTIFICATE,
    },
    (ServiceKind.SITE, Rendering.LEVELS): {"FL_SSL_CA_CERTFILE": CERTIFICATE},
    (ServiceKind.COORDINATOR, Rendering.FORM): {"ONEAPP_FLOWER_TRAINING_ROUNDS": "7"},
    (ServiceKind.COORDINATOR, Rendering.LEVELS): {"FL_LOG_LEVEL": "DEBUG"},
}
EXPECTED = {
    (ServiceKind.SITE, Rendering.FORM): {"FL_SUPERLINK_ADDRESS": "10.0.0.5:9092", "FL_SSL_CA_CERTFILE": CERTIFICATE},
    (ServiceKind.COORDINATOR, Rendering.FORM): {"FL_NUM_ROUNDS": "7"},
}


@pytest.fixture(params=FILLED, ids="-".join)
def posted(request, tmp_path):
    """Deploy what Sunstone posts, and yield the cloud, the kind, what was filled in, the service and its machine."""
    kind, rendering = request.param
    options = ServiceOptions(kind=kind, rendering=rendering, template_ids={COORDINATOR: 0, NODES: 1})
    made = Cloud(tmp_path / "cloud.db", service_template(options))
    filled = FILLED[request.param]
    merge = made.here(posted_for(made.servers.documents.get(made.template, 101).body, "from-sunstone", **filled))
    answer = made.instantiate(merge)
    assert answer.status_code == 201, answer.text
    service = int(answer.json()["DOCUMENT"]["ID"])
    [role] = kind.roles
    [vm] = made.nodes(service, role)
    yield made, kind, EXPECTED.get(request.param, filled), service, vm
    made.servers.close()


def test_sunstone_gives_its_one_role_the_variables_of_its_kind(posted):
    made, kind, expected, service, vm = posted
    assert made.body(service)["state"] == 1, "the gate holds it until the machine is ready"
    assert made.servers.put(vm, "READY=YES").status_code == 200
    made.servers.clock.advance(1)
    assert made.body(service)["state"] == 2
    given = {name: value for name, value in made.servers.compute.find(vm).context.items() if name in PARAMETERS}
    assert all(kind.homes(PARAMETERS[name]) for name in given)
    for name, value in expected.items():
        assert given[name].strip() == value.strip()
    assert {name: variables_of(made.body(service))[name] for name in expected} == expected
