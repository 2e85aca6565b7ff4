from __future__ import annotations

import pytest

from oneflower.local.models import CloudError, Document
from oneflower.local.vms import Place, inject_inputs, new_vm
from oneflower.local.vmtext import parse_template, resolve_context

SERVICE = Document(12, 100, {"name": "fl", "roles": []})
PLACE = Place(41, "127.20.0.2", "http://127.20.0.1:5030")


def test_a_vm_follows_from_template_role_and_answers():
    role = {"name": "supernode", "last_vmname": 3, "template_contents": {"CONTEXT": {"NETWORK": "YES", "TOKEN": "YES"}}}
    inject_inputs(role, {"FL_X": "answer", "FL_EMPTY": None, "FL_TRUE": True})
    base = {"CPU": "2", "LABEL": "lab", "CONTEXT": {"NETWORK": "NO", "WHO": "$NAME of $ROLE_NAME", "GONE": "$NOBODY"}}
    vm = new_vm(SERVICE, role, base, PLACE)
    assert vm.name == "supernode_3_(service_12)"
    assert vm.user_template == {
        "LABEL": "lab", "FL_X": "answer", "FL_EMPTY": "", "FL_TRUE": "true", "SERVICE_ID": "12", "ROLE_NAME": "supernode",
    }  # fmt: skip
    assert vm.context["FL_X"] == "answer"
    assert vm.context["WHO"] == "supernode_3_(service_12) of supernode"
    assert vm.context["GONE"] == ""
    assert (vm.context["ETH0_IP"], vm.context["VMID"], vm.context["ONEGATE_ENDPOINT"]) == (
        PLACE.ip,
        "41",
        PLACE.onegate,
    )
    assert base["CONTEXT"]["NETWORK"] == "NO", "the template itself is not changed"


def test_without_network_and_token_a_vm_knows_neither_address_nor_onegate():
    vm = new_vm(SERVICE, {"name": "x", "last_vmname": 0}, {"CPU": "1"}, PLACE)
    assert vm.context == {}
    assert vm.token


def test_a_value_is_resolved_once_only():
    assert resolve_context({"A": "$B"}, {"B": "$C", "C": "no"}) == {"A": "$C"}
    assert resolve_context({"A": "$USER[SSH_PUBLIC_KEY]"}, {}) == {"A": ""}


@pytest.mark.parametrize("text", ["=", 'A="1" B', "A=[B", 'A=[B="1"', 'A=[B="1",]', "<xml/>"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(CloudError, match="syntax error"):
        parse_template(text)


def test_quotes_comments_and_repeated_vectors():
    text = '# a comment\nA="say \\"hi\\""\nB = bare value\nDISK=[ID="1"]\nDISK=[ID="2"]\n'
    assert parse_template(text) == {"A": 'say "hi"', "B": "bare value", "DISK": [{"ID": "1"}, {"ID": "2"}]}
