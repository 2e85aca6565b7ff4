"""Signatures of apps: those of `ssh-keygen -Y sign`, verified here, and the signers whom a site trusts.

People sign with the SSH keys that they have, in files, agents or hardware. What they sign is a line of text with the
content hash of the app (`app_bundle.py`). The signatures travel in the app, in a JSON file with the key `signatures`:
a list of texts as ssh-keygen writes them.

Sources: PROTOCOL.sshsig and PROTOCOL.u2f of OpenSSH for the formats, ALLOWED SIGNERS in ssh-keygen(1) for the lines
that name the signers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shlex
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMESPACE = "oneflower-app"
_MAGIC = b"SSHSIG"
_ARMOR = re.compile(r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n?")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_USER_PRESENT = 0x01
_ED25519, _SK_ED25519 = "ssh-ed25519", "sk-ssh-ed25519@openssh.com"
_SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES = {"ecdsa-sha2-nistp256": "SHA256", "ecdsa-sha2-nistp384": "SHA384", "ecdsa-sha2-nistp521": "SHA512"}
_RSA = {"rsa-sha2-256": "SHA256", "rsa-sha2-512": "SHA512"}
KINDS = (_ED25519, _SK_ED25519, *_CURVES, _SK_ECDSA, "ssh-rsa")
_SMALLEST_RSA = 2048  # bits
_MOST = 20  # signatures in an app
_TIME = re.compile(r"\d{8}(\d{4}(\d{2})?)?Z?")


class SignatureError(ValueError):
    """A signature, or the line of a signer, that cannot be used. The text is the reason."""


@dataclass(frozen=True)
class Signer:
    """Who may sign apps: a name, the public key in SSH's own coding, and from when to when it counts."""

    name: str
    kind: str
    key: bytes
    after: datetime | None = None
    before: datetime | None = None

    @classmethod
    def parse(cls, line: str) -> Signer:
        """Read a line of an allowed_signers file. Raises `SignatureError`."""
        try:
            words = shlex.split(line, comments=False, posix=False)
        except ValueError as error:
            raise SignatureError(f"its quotes are not closed: {line!r}") from error
        at = next((place for place, word in enumerate(words) if word in KINDS), 0)
        if at not in (1, 2) or len(words) <= at + 1:
            raise SignatureError(f"expected NAME [OPTIONS] KEYTYPE KEY as in an allowed_signers file, not {line!r}")
        name = words[0].strip('"')
        if not name or set(name) & set("*?!,"):
            raise SignatureError(f"the name of a signer is one name without patterns, not {words[0]!r}")
        times = _times(words[1]) if at == 2 else {}
        try:
            key = base64.b64decode(words[at + 1], validate=True)
            kind = _Reader(key).text()
        except (binascii.Error, SignatureError) as error:
            raise SignatureError(f"the key of {name} is not a public key") from error
        signer = cls(name, words[at], key, **times)
        if kind != signer.kind:
            raise SignatureError(f"the key of {name} is of type {kind}, not {signer.kind}")
        _public_key(key)
        return signer

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key, as ssh-keygen shows it."""
        return fingerprint(self.key)

    @property
    def line(self) -> str:
        """The signer as a line of an allowed_signers file."""
        ends = {"valid-after": self.after, "valid-before": self.before}
        valid = ",".join(f'{name}="{time:%Y%m%d%H%M%S}Z"' for name, time in ends.items() if time)
        return " ".join(part for part in (self.name, valid, self.kind, base64.b64encode(self.key).decode()) if part)

    def counts_at(self, now: datetime) -> bool:
        """Whether signatures of this signer count at a time."""
        return (self.after is None or now >= self.after) and (self.before is None or now < self.before)


def fingerprint(key: bytes) -> str:
    """Return the fingerprint of a public key in SSH's coding, as ssh-keygen shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def message(content_hash: str) -> bytes:
    """Return what a signer signs for an app of this content hash."""
    return f"{NAMESPACE} v1 {content_hash}\n".encode()


@dataclass(frozen=True)
class Signature:
    """One signature: whose key made it, in SSH's coding, and the rest that is needed to verify it."""

    key: bytes
    hash_name: str
    blob: bytes

    @classmethod
    def parse(cls, armored: str) -> Signature:
        """Read what `ssh-keygen -Y sign` wrote. Raises `SignatureError`."""
        found = _ARMOR.fullmatch(armored)
        if found is None:
            raise SignatureError("it is not a signature of ssh-keygen")
        try:
            reader = _Reader(base64.b64decode(found[1].replace("\n", ""), validate=True))
        except binascii.Error as error:
            raise SignatureError("it is not a signature of ssh-keygen") from error
        if reader.take(len(_MAGIC)) != _MAGIC or reader.number() != 1:
            raise SignatureError("it is not a signature of ssh-keygen")
        key, namespace, reserved, hash_name, blob = (
            reader.string(), reader.text(), reader.string(), reader.text(), reader.string()
        )  # fmt: skip
        reader.end()
        if namespace != NAMESPACE:
            raise SignatureError(f"it was made for {namespace!r}, not for {NAMESPACE!r}")
        if reserved or hash_name not in _HASHES:
            raise SignatureError(f"its hash {hash_name!r} is not supported")
        return cls(key, hash_name, blob)

    def check(self, signed: bytes) -> None:
        """Raise `SignatureError` unless the key of this signature signed this."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - the client's other commands need it not

        digest = _HASHES[self.hash_name](signed).digest()
        text = _MAGIC + b"".join(map(_string, (NAMESPACE.encode(), b"", self.hash_name.encode(), digest)))
        try:
            _verify(self.key, self.blob, text)
        except InvalidSignature as error:
            raise SignatureError("it is not of this content: the app was changed after it was signed") from error


def read_signatures(content: bytes) -> list[str]:
    """Return the signatures in the file of an app, as ssh-keygen wrote them. Raises `SignatureError`."""
    try:
        said = json.loads(content)
        found = said["signatures"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureError("its file of signatures cannot be read") from error
    if said.keys() != {"signatures"} or not isinstance(found, list) or len(found) > _MOST:
        raise SignatureError("its file of signatures cannot be read")
    if not all(isinstance(one, str) for one in found):
        raise SignatureError("its file of signatures cannot be read")
    return found


def write_signatures(armored: Iterable[str]) -> bytes:
    """Return the file of signatures of an app."""
    return (json.dumps({"signatures": list(armored)}, indent=1) + "\n").encode()


def signer_of(content: bytes | None, content_hash: str, signers: Iterable[Signer], now: datetime) -> Signer:
    """Return a signer, of those given, who signed an app of this content hash; `content` is its file of signatures.

    Raises `SignatureError` if there is none. Its text completes "north/2 does not allow this app: it ...".
    """
    known = {signer.key: signer for signer in signers}
    names = ", ".join(sorted({signer.name for signer in known.values()})) or "nobody: the site trusts no signer"
    if content is None:
        raise SignatureError(f"is not signed; it must be signed by one of: {names}")
    others: list[str] = []
    for armored in read_signatures(content):
        try:
            signature = Signature.parse(armored)
        except SignatureError as error:
            raise SignatureError(f"has a signature that cannot be used: {error}") from error
        signer = known.get(signature.key)
        if signer is None:
            others.append(fingerprint(signature.key))
            continue
        if not signer.counts_at(now):
            others.append(f"{signer.name}, whose key is not valid at this time")
            continue
        try:
            signature.check(message(content_hash))
        except SignatureError as error:
            raise SignatureError(f"has a signature of {signer.name}, but {error}") from error
        return signer
    by = ", ".join(others) or "nobody"
    raise SignatureError(f"is signed by {by}; it must be signed by one of: {names}")


class _Reader:
    """Reads SSH's coding: numbers of 4 bytes, and strings with their length before them."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def take(self, count: int) -> bytes:
        found, self._content = self._content[:count], self._content[count:]
        if len(found) != count:
            raise SignatureError("it ends too early")
        return found

    def number(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def string(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.string().decode("ascii", "replace")

    def end(self) -> None:
        if self._content:
            raise SignatureError("it has more than a signature")


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _public_key(key: bytes) -> Any:
    """Return a key as `cryptography` has it: of a hardware key, the key without its application.

    Raises `SignatureError`.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key  # noqa: PLC0415

    reader = _Reader(key)
    kind = reader.text()
    if kind == _SK_ED25519:
        kind, key = _ED25519, _string(_ED25519.encode()) + _string(reader.string())
    elif kind == _SK_ECDSA:
        kind = "ecdsa-sha2-nistp256"
        key = _string(kind.encode()) + _string(reader.string()) + _string(reader.string())
    try:
        found = load_ssh_public_key(f"{kind} {base64.b64encode(key).decode()}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"a key of type {kind} cannot be read") from error
    if isinstance(found, rsa.RSAPublicKey) and found.key_size < _SMALLEST_RSA:
        raise SignatureError(f"an RSA key has at least {_SMALLEST_RSA} bits")
    return found


def _verify(key: bytes, blob: bytes, text: bytes) -> None:
    """Raise `InvalidSignature` unless `blob` is the signature of `text` by a key, and `SignatureError` otherwise."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, padding  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: PLC0415

    kind, reader = _Reader(key).text(), _Reader(blob)
    public, algorithm, made = _public_key(key), reader.text(), reader.string()
    if algorithm != kind and not (kind == "ssh-rsa" and algorithm in _RSA):
        raise SignatureError(f"a key of type {kind} does not sign as {algorithm}")
    if kind in (_SK_ED25519, _SK_ECDSA):
        flags, counter = reader.take(1), reader.take(4)
        if not flags[0] & _USER_PRESENT:
            raise SignatureError("nobody touched the hardware key")
        application = _application(key, kind)
        text = hashlib.sha256(application).digest() + flags + counter + hashlib.sha256(text).digest()
    reader.end()
    if kind in (_ED25519, _SK_ED25519):
        public.verify(made, text)
    elif kind == "ssh-rsa":
        public.verify(made, text, padding.PKCS1v15(), getattr(hashes, _RSA[algorithm])())
    else:
        numbers = _Reader(made)
        pair = [int.from_bytes(numbers.string(), "big") for _ in range(2)]
        hashing = getattr(hashes, _CURVES.get(kind, "SHA256"))()
        public.verify(encode_dss_signature(*pair), text, ec.ECDSA(hashing))


def _application(key: bytes, kind: str) -> bytes:
    reader = _Reader(key)
    for _ in range(2 if kind == _SK_ED25519 else 3):
        reader.string()
    return reader.string()


def _times(options: str) -> dict[str, datetime]:
    """Return the options of a signer's line that we know. Raises `SignatureError` for others."""
    found: dict[str, datetime] = {}
    for option in re.findall(r'(?:[^,"]|"[^"]*")+', options):
        name, _, quoted = option.partition("=")
        value = quoted.strip('"')
        if name == "namespaces":
            if NAMESPACE not in value.split(","):
                raise SignatureError(f"namespaces={quoted} does not have {NAMESPACE}")
        elif name in ("valid-after", "valid-before") and _TIME.fullmatch(value):
            found[name.removeprefix("valid-")] = _time(value)
        else:
            raise SignatureError(f"the option {option} of a signer is not supported")
    return found


def _time(value: str) -> datetime:
    digits = value.removesuffix("Z")
    try:
        found = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S")  # noqa: DTZ007 - its zone follows
    except ValueError as error:
        raise SignatureError(f"{value} is not a time") from error
    return found.replace(tzinfo=UTC) if value.endswith("Z") else found.astimezone(UTC)
