"""Signatures of ssh-keygen, of every kind of key, are verified; one that is not of this app or signer counts nothing."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oneflower.cloud.app_signing import sign
from oneflower.cloud.site_folder import SiteFolder
from oneflower_appliance import app_signature
from oneflower_appliance.app_bundle import SIGNATURE, content_hash
from oneflower_appliance.app_signature import Signature, SignatureError, Signer, message, signer_of, write_signatures
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.site_policy import PolicyError, SitePolicy
from tests.unit.test_site_policy import NOW, PROJECT, Bundle, packed

HASH = "ab" * 32


def key(folder, kind="ed25519", bits=None):
    path = folder / f"id_{kind}{bits or ''}"
    size = ["-b", str(bits)] if bits else []
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", path], check=True)
    return path


def signed(path, namespace="oneflower-app"):
    command = ["ssh-keygen", "-Y", "sign", "-f", path, "-n", namespace]
    return subprocess.run(command, input=message(HASH), capture_output=True, check=True).stdout.decode()


def signer(path, name="alice", options=""):
    public = path.with_suffix(".pub").read_text()
    return Signer.parse(f"{name} {options}{public}")


def found(armored, *signers, content=HASH):
    return signer_of(write_signatures([armored]), content, signers, NOW)


@pytest.fixture(scope="module")
def alice(tmp_path_factory):
    return key(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize(("kind", "bits"), [("ecdsa", 256), ("ecdsa", 521), ("ed25519", None)])
def test_a_signature_of_ssh_keygen_is_valid_for_its_content_and_no_other(tmp_path, kind, bits):
    path = key(tmp_path, kind, bits)
    armored = signed(path)
    assert found(armored, signer(path)).name == "alice"
    with pytest.raises(SignatureError, match="changed after it was signed"):
        found(armored, signer(path), content="cd" * 32)


def test_who_is_not_trusted_signs_nothing_and_neither_does_another_use_of_a_key(tmp_path, alice):
    mallory = key(tmp_path)
    with pytest.raises(SignatureError, match="is signed by SHA256:.*; it must be signed by one of: alice"):
        found(signed(mallory), signer(alice))
    with pytest.raises(SignatureError, match="is not signed"):
        signer_of(None, HASH, [signer(alice)], NOW)
    with pytest.raises(SignatureError, match="made for 'git'"):
        found(signed(alice, namespace="git"), signer(alice))
    # Mallory's signature with Alice's key in its place.
    own = Signature.parse(signed(mallory))
    with pytest.raises(SignatureError, match="changed after"):
        Signature(signer(alice).key, own.hash_name, own.blob).check(message(HASH))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"signatures": "x"}', b'{"signatures": [1]}', b"[" * 9999,
                                     b'{"signatures": [], "more": 1}'])  # fmt: skip
def test_a_file_of_signatures_that_is_none_is_refused(content, alice):
    with pytest.raises(SignatureError):
        signer_of(content, HASH, [signer(alice)], NOW)


def test_a_signature_that_was_cut_or_grew_is_refused(alice):
    armored = signed(alice)
    lines = armored.splitlines(keepends=True)
    longer = lines[0] + b64encode(b"SSHSIG" + bytes(400)).decode() + "\n" + lines[-1]
    for wrong in (armored[:-5], lines[0] + lines[1] + lines[-1], longer, "x" + armored, armored + armored):
        with pytest.raises(SignatureError):
            found(wrong, signer(alice))


def test_a_hardware_key_signs_if_somebody_touched_it(monkeypatch):
    """As PROTOCOL.u2f describes it; there is no such key here."""
    private = Ed25519PrivateKey.generate()
    string = app_signature._string  # noqa: SLF001
    kind = b"sk-ssh-ed25519@openssh.com"
    public = string(kind) + string(private.public_key().public_bytes_raw()) + string(b"ssh:")
    owner = Signer.parse(f"carol {kind.decode()} {b64encode(public).decode()}")

    def armored(flags):
        digest = hashlib.sha512(message(HASH)).digest()
        text = b"SSHSIG" + string(b"oneflower-app") + string(b"") + string(b"sha512") + string(digest)
        rest = bytes([flags]) + struct.pack(">I", 7)
        made = private.sign(hashlib.sha256(b"ssh:").digest() + rest + hashlib.sha256(text).digest())
        blob = string(kind) + string(made) + rest
        whole = b"SSHSIG" + struct.pack(">I", 1) + string(public)
        whole += string(b"oneflower-app") + string(b"") + string(b"sha512") + string(blob)
        return f"-----BEGIN SSH SIGNATURE-----\n{b64encode(whole).decode()}\n-----END SSH SIGNATURE-----\n"

    assert found(armored(1), owner) == owner
    with pytest.raises(SignatureError, match="nobody touched"):
        found(armored(0), owner)


def test_a_key_counts_from_when_to_when_its_line_says(alice):
    armored = signed(alice)
    for options, counts in (
        ('valid-after="20260101",valid-before="20270101Z" ', True),
        ('namespaces="file,oneflower-app" ', True),
        ('valid-before="20260304115900Z" ', False),
        ('valid-after="20260305" ', False),
    ):
        one = signer(alice, options=options)
        assert Signer.parse(one.line) == one
        assert one.counts_at(NOW) is counts
        if not counts:
            with pytest.raises(SignatureError, match="not valid at this time"):
                found(armored, one)
    assert signer(alice, options='valid-after="20260304120000Z" ').after == datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize("line", ["* {}", "a,b {}", "a cert-authority {}", 'a namespaces="git" {}', 'a x="{}',
                                  'a valid-after="2026" {}', 'a valid-after="20261399" {}', "{}"])  # fmt: skip
def test_a_line_that_would_trust_more_than_one_key_of_one_signer_is_refused(line, alice):
    public = alice.with_suffix(".pub").read_text().rpartition(" ")[0]
    with pytest.raises(SignatureError):
        Signer.parse(line.format(public))


def test_an_app_that_was_signed_is_allowed_and_after_a_change_it_is_not(tmp_path, alice):
    app = tmp_path / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)

    def build():
        return Bundle.read(packed({path.name: path.read_text() for path in app.iterdir()}))

    done = sign(app, alice, build)
    assert done.content == content_hash(build().files)
    folder = SiteFolder(tmp_path / "site" / "policy.toml")
    folder.trust(f"alice {alice.with_suffix('.pub').read_text()}")
    folder.path.write_text('apps = "signed"')
    policy = SitePolicy.parse(folder.text())
    assert policy.check_app(build(), NOW) == "it is signed by alice"
    second = key(tmp_path, "ecdsa")
    assert len(sign(app, second, build).keys) == 2, "the first signature stays"
    assert policy.check_app(build(), NOW) == "it is signed by alice"
    (app / "evil.py").write_text("")
    with pytest.raises(PolicyError, match="signature of alice, but .* changed after it was signed"):
        policy.check_app(build(), NOW)
    folder.distrust("alice")
    with pytest.raises(OneflowerError, match="without signers"):
        folder.text()
    assert len(json.loads((app / SIGNATURE).read_text())["signatures"]) == 2


def test_an_app_whose_bundle_leaves_the_signature_out_is_not_called_signed(tmp_path, alice):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    with pytest.raises(OneflowerError, match="fab-include"):
        sign(tmp_path, alice, lambda: Bundle.read(packed({"pyproject.toml": PROJECT})))
