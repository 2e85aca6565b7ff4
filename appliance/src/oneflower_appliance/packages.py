"""The packages that machines get besides those of their image: how a value or a list names them.

Both are written as in pip's requirement files: a requirement, then its hashes. Nothing else of that format is valid,
so no option and no address of a file comes in this way.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

IMAGE = Path("/usr/share/oneflower/image.json")  # what an image says of itself
ADDED = "added"  # the key in it for the packages that it has besides those of its variant
INSTEAD = "instead"  # the same for those of which it has another release than others with its framework
LIST = "packages.txt"  # the list in a folder of wheels

_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_SPECIFIER = r"(?:===?|[<>!~]=|[<>])[\w.*+!]+"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})(?:\[[\w.,-]+\])?(?P<specifier>{_SPECIFIER}(?:,{_SPECIFIER})*)?", re.ASCII
)
_PINNED = re.compile(r"==[\w.+!]+", re.ASCII)
_LIST = re.compile(r"[A-Za-z0-9][\w.-]*\.txt", re.ASCII)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Wanted:
    """One package that is asked for, or a list in the folder of wheels: its text, and its SHA-256 digests."""

    text: str
    hashes: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether this is the name of a list."""
        return bool(_LIST.fullmatch(self.text))

    @property
    def name(self) -> str:
        """The normalised name of the package."""
        match = _REQUIREMENT.fullmatch(self.text)
        return normalised(match["name"]) if match else ""

    @property
    def specifier(self) -> str:
        """The versions that are asked for, as in PEP 440. Empty means any."""
        match = _REQUIREMENT.fullmatch(self.text)
        return (match["specifier"] or "") if match else ""

    @property
    def is_verified(self) -> bool:
        """Whether this names one content and no other."""
        return bool(self.hashes) and (self.is_list or bool(_PINNED.fullmatch(self.specifier)))

    def __str__(self) -> str:
        """Return it as in a list."""
        return " ".join([self.text, *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def normalised(name: str) -> str:
    """Return the name of a package as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_packages(text: str) -> list[Wanted]:
    """Read the value of FL_PACKAGES, or the content of a list. Raises `ValueError` with the word that is not valid."""
    found: list[Wanted] = []
    lines = text.replace("\\\n", " ").splitlines()
    for word in (word for line in lines for word in line.partition("#")[0].split()):
        digest = _HASH.fullmatch(word)
        if digest and found:
            found[-1] = Wanted(found[-1].text, (*found[-1].hashes, digest[1]))
        elif _LIST.fullmatch(word) or _REQUIREMENT.fullmatch(word):
            found.append(Wanted(word))
        else:
            raise ValueError(word)
    return found


def is_folder(index: str) -> bool:
    """Whether a value of FL_PACKAGE_INDEX is a folder of wheels, and not the URL of an index."""
    return index.startswith("/")


def check_index(index: str) -> None:
    """Raise `ValueError` unless this is a folder, or an https URL that holds no password."""
    if is_folder(index):
        if not re.fullmatch(r"/[\w./-]+", index, re.ASCII) or ".." in index.split("/"):
            raise ValueError(index)
        return
    url = urlsplit(index)
    if url.scheme != "https" or not url.hostname or "@" in url.netloc or not re.fullmatch(r"[\w.:/~-]+", index[6:]):
        raise ValueError(index)


def digest_of(content: bytes) -> str:
    """Return the SHA-256 digest of a file's content."""
    return hashlib.sha256(content).hexdigest()
