"""How a VM is made from template text, and the text itself."""

from __future__ import annotations

import pytest

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import Access
from oneflower.local.oned.vms import Place, new_vm
from oneflower.local.oned.vmtext import parse_template, render_contents, resolve_context
from oneflower.local.oneflow.contents import fill_contents, fill_references

PLACE = Place(41, ("127.20.0.2",), "http://127.20.0.1:5030", 1000)


def make(attributes, name="", user=()):
    return new_vm(attributes, name, PLACE, Access(), dict(user))


def test_user_inputs_reach_template_and_context_of_every_role_and_the_roles_own_win():
    service = {
        "user_inputs_values": {"FL_A": "service", "FL_B": "service"},
        "roles": [{"user_inputs_values": {"FL_B": "role"}}, {"template_contents": {"CONTEXT": {"X": "1"}}}],
    }
    fill_contents(service)
    first, second = (role["template_contents"] for role in service["roles"])
    assert first == {"FL_A": "service", "FL_B": "role", "CONTEXT": {"FL_A": "$FL_A", "FL_B": "$FL_B"}}
    assert second["CONTEXT"] == {"X": "1", "FL_A": "$FL_A", "FL_B": "$FL_B"}


def test_a_vm_follows_from_its_attributes():
    context = {"NETWORK": "YES", "TOKEN": "YES", "WHO": "$NAME of $ROLE_NAME", "GONE": "$NOBODY", "FL_X": "$FL_X"}
    vm = make({"CPU": "2", "FL_X": "answer", "ROLE_NAME": "node", "SERVICE_ID": "12", "CONTEXT": context}, "vm_3")
    assert vm.service_id == 12
    assert vm.user_template == {"FL_X": "answer", "ROLE_NAME": "node", "SERVICE_ID": "12"}
    assert (vm.context["FL_X"], vm.context["WHO"], vm.context["GONE"]) == ("answer", "vm_3 of node", "")
    assert (vm.context["ETH0_IP"], vm.context["VMID"]) == ("127.20.0.2", "41")
    assert vm.context["ONEGATE_ENDPOINT"] == PLACE.onegate
    assert vm.context["ETH0_GATEWAY"] == ""


def test_without_context_a_vm_knows_nothing_but_has_an_address():
    vm = make({"CPU": "1"})
    assert vm.context == {}
    assert vm.template["NIC"]["IP"] == "127.20.0.2"
    assert vm.service_id is None


def test_what_a_dollar_stands_for_in_context():
    context = {"KEY": "$USER[SSH_PUBLIC_KEY]", "NIC": "$NIC[IP]", "OTHER": '$NIC[IP, NETWORK="x"]', "TWICE": "$A"}
    vm = make({"A": "$B", "B": "no", "CONTEXT": context, "NIC": {"NETWORK": "lan"}}, user={"SSH_PUBLIC_KEY": "ssh-x"})
    assert vm.context["KEY"] == "ssh-x"
    assert vm.context["OTHER"] == ""
    assert vm.context["TWICE"] == "$B", "a value is resolved once only"


@pytest.mark.parametrize("text", ["${HOME}", "$(id)", "5$", "$"])
def test_a_dollar_without_a_name_is_a_syntax_error(text):
    with pytest.raises(CloudError, match="syntax error"):
        resolve_context({"A": text}, lambda *_: "")


@pytest.mark.parametrize("text", ['A="1" B', "A=[B", 'A=[B="1"', 'A=[B="1",]', "A=a b=", "A"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(CloudError, match="syntax error"):
        parse_template(text)


def test_quotes_comments_repeated_and_empty_attributes():
    text = '# a comment\nA="say \\"hi\\""\nb = bare\nDISK=[ID="1"]\nDISK=[ID="2"]\nE=\nF=[]\nG=""\nP="c:\\dir\\n"\nM="1\n2\n"\n'
    assert parse_template(text) == {
        "A": 'say "hi"', "B": "bare", "DISK": [{"ID": "1"}, {"ID": "2"}], "E": "", "F": {}, "G": "", "P": "c:\\dir\\n", "M": "1\n2",
    }  # fmt: skip


def test_contents_survive_being_rendered_but_for_line_breaks_in_vectors():
    contents = {
        "A": 'q " \\ x',
        "N": None,
        "T": True,
        "V": {"X": "a,b [c]", "PEM": "one\ntwo"},
        "L": [{"I": 1}, {"I": 2}],
    }
    assert parse_template(render_contents(contents)) == {
        "A": 'q " \\ x', "N": "", "T": "true", "V": {"X": "a,b [c]", "PEM": "one,\ntwo"}, "L": [{"I": "1"}, {"I": "2"}],
    }  # fmt: skip


def test_references_to_other_roles_are_filled_or_blanked():
    known = {"x.y": "1"}
    assert fill_references("a ${x.y} b ${HOME} ${x.y}", lambda reference: known.get(reference, "")) == ("a 1 b  1")
