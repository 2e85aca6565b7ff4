"""A member of a service attacks: it changes, through OneGate, what the SuperLink published."""

from __future__ import annotations

import base64
import stat

import pytest

from oneflower.cli import shown, training
from oneflower.cli.session import Session
from oneflower.cloud import Cloud, Federation
from oneflower.cloud.site import Site
from oneflower.opennebula import COORDINATOR, NODES
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import replace_authority
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import encode_pem
from oneflower_appliance.parameters import FLOWER_TESTED

from .conftest import ON_OPENNEBULA


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def service(world, federation):
    """A federation that is ready, with the VM ids of its SuperLink and of one member."""
    with world.guests(silent=(COORDINATOR,)):
        [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
        world.until(lambda: (found := world.cloud.core.vm(link)) and (found.state, found.lcm_state) == (3, 3))
        if not world.cloud.core.vm(link).ip:
            pytest.skip("the machines have no network")
        publish(world, link)
        world.until(lambda: world.state(federation) == 2)
    return federation, link, world.nodes(federation, NODES)[0]


def publish(world, link, **changes):
    """Publish as the SuperLink's agent does."""
    address = world.cloud.core.vm(link).ip
    values = {
        "FL_ENDPOINT": f"{address}:9092",
        "FL_CONTROL_ENDPOINT": "127.0.0.1:8000",
        "FL_TLS": "YES",
        "FL_VERSION": FLOWER_TESTED,
        "FL_CERT_EXPIRES": "2030-01-01",
        "FL_CA_CERT": encoded("the CA"),
        "FL_SSH_HOST_KEYS": encoded("ssh-ed25519 AAAA"),
    }
    guest = world.guest(link)
    guest.publish(guest.prove(values | changes) | {"READY": "YES"})


def refused(call):
    with pytest.raises(OneflowerError) as caught:
        call()
    assert caught.value.code is ExitCode.CONFLICT
    return caught.value.message


def test_what_the_superlink_published_itself_is_followed(service):
    federation, _, _ = service
    assert federation.status().trust.refusal == federation.status().trust.note == ""
    with pytest.raises(AssertionError, match="somebody connects to 127.0.0.1:8000"):
        federation.run("image-classification")


ATTACKS = {
    "the Control API": ("FL_CONTROL_ENDPOINT", "127.66.6.6:8000", "which is not an address of that VM"),
    "another port": ("FL_CONTROL_ENDPOINT", "127.0.0.1:8001", "does not carry the proof"),
    "the CA": ("FL_CA_CERT", encoded("another CA"), "does not carry the proof"),
    "the host keys": ("FL_SSH_HOST_KEYS", encoded("ssh-ed25519 BBBB"), "does not carry the proof"),
    "the endpoint": ("FL_ENDPOINT", "127.66.6.6:9092", "which is not an address of that VM"),
    "TLS": ("FL_TLS", "NO", "does not carry the proof"),
    "when its certificates expire": ("FL_CERT_EXPIRES", "2026-01-01", "does not carry the proof"),
    "no address": ("FL_CONTROL_ENDPOINT", "nowhere", "is not an address"),
    "the proof": ("FL_PROOF", "00" * 32, "does not carry the proof"),
}


@pytest.mark.parametrize(("attribute", "value", "sentence"), ATTACKS.values(), ids=ATTACKS)
def test_a_member_cannot_redirect_the_operator(
    world, service, attribute, value, sentence, monkeypatch, capsys, tmp_path
):
    federation, link, member = service
    monkeypatch.setattr(Session, "cloud", lambda: world.cloud)
    assert world.raw(member, "PUT", f"/vms/{link}", content=f"{attribute}={value}").status_code == 200
    assert sentence in refused(lambda: federation.run("image-classification", save=tmp_path))
    assert sentence in refused(lambda: federation.fetch_model(tmp_path / "model.npz"))
    assert sentence in refused(lambda: training.connect(federation.name))
    shown.show(federation.name)
    assert sentence in " ".join(capsys.readouterr().out.split())
    publish(world, link)
    assert federation.status().trust.refusal == ""


def test_a_member_can_neither_make_the_proof_nor_do_away_with_it(world, service):
    federation, link, member = service
    values = {**world.cloud.core.vm(link).attributes, "FL_CA_CERT": encoded("another CA")}
    forged = world.guest(member).prove(values)
    lines = "\n".join(f"{name}={forged[name]}" for name in ("FL_CA_CERT", "FL_PROOF"))
    assert world.raw(member, "PUT", f"/vms/{link}", content=lines).status_code == 200
    assert "does not carry the proof" in federation.status().trust.refusal
    publish(world, link)
    assert world.raw(member, "PUT", f"/vms/{link}?type=2", content="FL_PROOF").status_code == 200
    assert "does not carry the proof" in federation.status().trust.refusal


def test_a_member_reads_no_secret_of_another(world, service):
    _, link, member = service
    for path in (f"/vms/{link}", "/service", "/service?extended=true"):
        text = world.raw(member, "GET", path).text
        assert world.token(link) not in text
        assert world.password not in text


def test_a_member_does_not_find_the_private_key_of_the_superlink(world):
    certificate, private = (f"-----BEGIN {what}-----\nmine\n-----END {what}-----\n" for what in ("X", "PRIVATE KEY"))
    given = {"FL_SSL_CA_CERTFILE": certificate, "FL_SSL_CERTFILE": certificate, "FL_SSL_KEYFILE": private}
    with world.federation("secret", **given) as made:
        world.ready(made)
        [link], member = world.nodes(made, COORDINATOR), world.nodes(made, NODES)[0]
        key = encode_pem(given["FL_SSL_KEYFILE"])
        if not ON_OPENNEBULA:
            assert world.cloud.core.read("one.vm.info", link, True).findtext("TEMPLATE/CONTEXT/FL_SSL_KEYFILE") == key
        assert "FL_SSL_KEYFILE" not in world.cloud.core.vm_context(member)
        asked = [f"/vms/{link}", "/service", "/service?extended=true", "/vm"]
        encrypted = "CONTEXT/FL_SSL_KEYFILE" in Site(world.cloud).encrypted()
        for path in asked if encrypted else [path for path in asked if "extended" not in path]:
            text = world.raw(member, "GET", path).text
            assert key not in text
            assert "PRIVATE KEY" not in text


def test_who_cannot_check_the_proof_pins_what_was_published_first(world, service, tmp_path):
    known, link, member = service
    cloud = Cloud(world.cloud.endpoints, world.cloud.surroundings)
    cloud.core.__dict__["token_password"] = ("4711", "")
    federation = Federation(cloud, known.id, known.name)
    first = federation.status().trust
    assert "trusted on first use" in first.note
    first.check()
    assert stat.S_IMODE(first.pin.stat().st_mode) == 0o600
    again = federation.status().trust
    assert (again.refusal, again.note, again.pin) == ("", "", None)
    world.raw(member, "PUT", f"/vms/{link}", content=f"FL_CA_CERT={encoded('another CA')}")
    changed = federation.status().trust
    assert "published other addresses, keys or certificates than when it was used first" in refused(changed.check)
    assert str(first.pin) in changed.hint
    first.pin.unlink()
    # Another CA is accepted if the one that is known signed it.
    tls.make_certificates(tmp_path, [("IP", "10.0.0.1")])
    for replaced in (False, True):
        if replaced:
            replace_authority(tmp_path, tls.current_time())
        ca = encoded((tmp_path / "ca.crt").read_text())
        world.raw(member, "PUT", f"/vms/{link}", content=f"FL_CA_CERT={ca}")
        federation.status().trust.check()
        assert federation.status().trust.pin is None, "it is pinned"
    cloud.close()
