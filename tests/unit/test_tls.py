from __future__ import annotations

import base64
import datetime
import ssl
import stat

import pytest
from cryptography import x509

from oneflower_appliance import ca_chain
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import replace_authority
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import resolve

NAMES = [("IP", "127.0.0.1"), ("DNS", "localhost")]


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_a_generated_certificate_is_accepted_by_a_real_tls_client(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    assert greet(made, made.ca.read_text())


def greet(made, trusted):
    """Return the certificate that a client accepts from a server, over TLS, by the CAs that it trusts."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    client = ssl.create_default_context(cadata=trusted)
    client.verify_flags &= ~0x80000  # X509_V_FLAG_PARTIAL_CHAIN, which only newer Pythons have on
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    a = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    b = server.wrap_bio(outgoing, incoming, server_side=True)
    for _ in range(4):
        for end in (a, b):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return a.getpeercert()["subjectAltName"]


def test_who_trusts_any_of_the_cas_that_replaced_each_other_trusts_the_server_and_follows_to_the_last(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    pems = [made.ca.read_bytes()]
    now = tls.current_time()
    for _ in range(2):
        replace_authority(tmp_path, now)
        assert greet(made, made.ca.read_text()), "until the server has another certificate"
        tls.make_certificates(tmp_path, NAMES, now)
        pems.append(made.ca.read_bytes())
    for before in pems:
        assert greet(made, before.decode())
        pin = ca_chain.fingerprint(ca_chain.newest(before, "it"))
        followed = ca_chain.follow_pin(pems[-1], pin, "it")
        assert greet(made, followed.decode())
        assert ca_chain.newest(followed, "it") == ca_chain.newest(pems[-1], "it")
    assert (tls.Ends.of(made).ca - now).days > 3600
    assert "ca-next.key" not in {path.name for path in tmp_path.iterdir()}


def test_a_crash_while_the_ca_is_replaced_leaves_nobody_behind(tmp_path, monkeypatch):
    made = tls.make_certificates(tmp_path, NAMES)
    before, key, now = made.ca.read_bytes(), (tmp_path / "ca.key").read_bytes(), tls.current_time()
    replace_authority(tmp_path, now)
    after, new = made.ca.read_bytes(), (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca-next.key").write_bytes(new)
    for kept in (before, after):  # it ended before the chain was written, and after
        made.ca.write_bytes(kept)
        (tmp_path / "ca.key").write_bytes(key)
        tls.make_certificates(tmp_path, NAMES, now)
        assert made.ca.read_bytes() == kept
        assert greet(made, before.decode())


def test_a_chain_that_holds_anything_that_the_trusted_ca_did_not_sign_is_no_continuation(tmp_path):
    made = [tls.make_certificates(tmp_path / name, NAMES) for name in ("own", "foreign")]
    before = made[0].ca.read_bytes()
    for folder in ("own", "foreign"):
        replace_authority(tmp_path / folder, tls.current_time())
    after, foreign = (each.ca.read_bytes() for each in made)
    assert ca_chain.continues(before, after)
    assert ca_chain.continues(after, after)
    assert not any(ca_chain.continues(before, wrong) for wrong in (
        foreign, before + foreign, foreign + after, after + foreign, b"", b"x", after.replace(before, b"")
    ))  # fmt: skip
    assert not ca_chain.continues(b"", after)
    assert not ca_chain.continues(after, before), "not back to the one before"


def test_keys_are_for_their_owner_only(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    for key in (made.key, tmp_path / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_restart_keeps_certificate_and_ca_and_a_new_name_keeps_the_ca(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    before = made.ca.read_bytes(), made.certificate.read_bytes()
    tls.make_certificates(tmp_path, NAMES)
    assert (made.ca.read_bytes(), made.certificate.read_bytes()) == before
    tls.make_certificates(tmp_path, [*NAMES, ("DNS", "superlink.example.org")])
    assert made.ca.read_bytes() == before[0]
    held = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "superlink.example.org" in names.get_values_for_type(x509.DNSName)


def test_a_damaged_key_is_replaced(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    made.key.write_text("garbage")
    tls.make_certificates(tmp_path, NAMES)
    assert "PRIVATE KEY" in made.key.read_text()


def test_given_certificates_are_used_when_they_belong_together(tmp_path):
    made = tls.make_certificates(tmp_path / "a", NAMES)
    used = tls.use_certificates(tmp_path / "b", encoded(made.ca), encoded(made.certificate), encoded(made.key))
    assert used.key.read_bytes() == made.key.read_bytes()
    assert stat.S_IMODE(used.key.stat().st_mode) == 0o600


def test_certificates_are_taken_raw_in_base64_and_in_base64_with_line_breaks(tmp_path):
    made = tls.make_certificates(tmp_path / "a", NAMES)
    pems = [path.read_text() for path in (made.ca, made.certificate, made.key)]
    wrapped = [base64.encodebytes(pem.encode()).decode() for pem in pems]
    for index, given in enumerate(([pem.strip() for pem in pems], [encoded(made.ca), pems[1], wrapped[2]], wrapped)):
        names = ("FL_SSL_CA_CERTFILE", "FL_SSL_CERTFILE", "FL_SSL_KEYFILE")
        settings = resolve(dict(zip(names, given, strict=True)))
        used = tls.use_certificates(tmp_path / str(index), *(settings.text(name) for name in names))
        assert [path.read_text() for path in (used.ca, used.certificate, used.key)] == pems
        assert stat.S_IMODE(used.key.stat().st_mode) == 0o600


def test_given_certificates_that_do_not_belong_together_are_refused(tmp_path):
    one = tls.make_certificates(tmp_path / "a", NAMES)
    two = tls.make_certificates(tmp_path / "b", NAMES)
    with pytest.raises(OneflowerError, match="is not signed by FL_SSL_CA_CERTFILE"):
        tls.use_certificates(tmp_path / "c", encoded(two.ca), encoded(one.certificate), encoded(one.key))
    with pytest.raises(OneflowerError, match="FL_SSL_KEYFILE is not the private key"):
        tls.use_certificates(tmp_path / "c", encoded(one.ca), encoded(one.certificate), encoded(two.key))
    garbage = base64.b64encode(b"garbage").decode()
    with pytest.raises(OneflowerError, match="FL_SSL_CERTFILE holds no PEM certificate"):
        tls.use_certificates(tmp_path / "c", encoded(one.ca), garbage, encoded(one.key))
    with pytest.raises(OneflowerError, match="FL_SSL_KEYFILE holds no unencrypted PEM"):
        tls.use_certificates(tmp_path / "c", encoded(one.ca), encoded(one.certificate), garbage)
    assert not (tmp_path / "c").exists()


YEAR = datetime.timedelta(days=365)


def test_a_clock_that_is_wrong_is_named_and_may_be_right_the_next_time(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    late = tls.make_certificates(tmp_path / "late", NAMES, tls.current_time() + YEAR)
    old = tls.make_certificates(tmp_path / "old", NAMES, tls.current_time() - 11 * YEAR)
    for wrong, what in ((late, "is not valid before"), (old, "expired on")):
        with pytest.raises(OneflowerError, match=f"{what}.*the clock of this machine says") as refused:
            tls.check_ca(wrong.ca.read_bytes(), "FL_CA_CERT")
        assert "need NTP" in refused.value.hint
        assert refused.value.code is ExitCode.ENVIRONMENT
    tls.check_ca(made.ca.read_bytes(), "FL_CA_CERT")


def test_a_server_certificate_made_by_a_clock_that_was_ahead_is_made_again_by_the_same_ca(tmp_path):
    now = tls.current_time()
    ca = tls.make_certificates(tmp_path, NAMES, now).ca.read_bytes()
    (tmp_path / "server.pem").unlink()
    tls.make_certificates(tmp_path, NAMES, now + YEAR)
    again = tls.make_certificates(tmp_path, NAMES, now)
    assert again.ca.read_bytes() == ca
    tls.Ends.of(again).check(now)


@pytest.mark.parametrize(("years", "what"), [(-1, "is not valid before"), (14, "expired on")])
def test_a_ca_that_nodes_may_trust_is_kept_by_a_wrong_clock(tmp_path, years, what):
    ca = tls.make_certificates(tmp_path, NAMES).ca.read_bytes()
    with pytest.raises(OneflowerError, match=what) as refused:
        tls.make_certificates(tmp_path, NAMES, tls.current_time() + years * YEAR)
    assert refused.value.code is ExitCode.ENVIRONMENT
    assert tls.make_certificates(tmp_path, NAMES).ca.read_bytes() == ca


def test_a_ca_of_a_clock_that_was_ahead_goes_while_nobody_trusts_it(tmp_path):
    now = tls.current_time()
    tls.make_certificates(tmp_path, NAMES, now + 9 * YEAR)
    tls.forget_ca_of_later(tmp_path, now)
    made = tls.make_certificates(tmp_path, NAMES, now)
    tls.Ends.of(made).check(now)
    tls.forget_ca_of_later(tmp_path, now)
    assert made.ca.exists()


def test_an_ordinary_certificate_of_the_same_ca_leads_to_no_other_ca(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    ca, server = made.ca.read_bytes(), made.certificate.read_bytes()
    leaf = server[: server.index(b"-----BEGIN PRIVATE")]
    assert not ca_chain.continues(ca, ca + leaf)
    pin = ca_chain.fingerprint(ca_chain.newest(ca, "it"))
    assert ca_chain.follow_pin(ca + leaf, pin, "it") == ca


def test_a_ca_whose_key_cannot_be_read_is_not_replaced_by_one_that_nobody_trusts(tmp_path):
    made = tls.make_certificates(tmp_path, NAMES)
    before = made.ca.read_bytes()
    (tmp_path / "ca.key").write_bytes(b"")
    with pytest.raises(OneflowerError, match="or its key, cannot be read"):
        replace_authority(tmp_path, tls.current_time())
    assert made.ca.read_bytes() == before
