"""What an image is made of. Two builds with the same spec, packages and code have the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from dataclasses import dataclass

from oneflower.images import nvidia
from oneflower.runtimes.runtime import GPU, GPU_PACKAGES, NO_FRAMEWORK
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED
from oneflower_appliance.use_cases import FRAMEWORKS

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PYTHON = "3.11"  # that of the suite, for which the wheels are chosen
ARCHITECTURE = "x86_64"
GLIBC = 36  # the C library of the suite is 2.36
PLATFORM = f"{ARCHITECTURE}-manylinux_2_{GLIBC}"
# Flower would install an app's dependencies with uv, and a server would watch its files: machines do neither. Without
# hf-xet, models are downloaded over plain HTTP. Nothing is built, so setuptools and TensorFlow's libclang have no use.
LEFT_OUT = ("uv", "watchfiles", "hf-xet", "setuptools", "libclang")

# Debian packages beside the essential ones. There is no apt: an image is replaced by a newer one, not upgraded.
PACKAGES = (
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "systemd-timesyncd", "systemd-resolved", "udev",
    "dbus", "libnss-myhostname", "libstdc++6", "libgomp1", "kmod", "e2fsprogs", "iproute2", "openssh-server", "python3",
    "ca-certificates", "usr-is-merged", "python3-pip-whl", "tzdata",
)  # fmt: skip

# A variant is a name and the framework whose pinned list it carries.
VARIANTS = {NO_FRAMEWORK: NO_FRAMEWORK, **{name: name for name in FRAMEWORKS}, "llm": "pytorch"}


@dataclass(frozen=True)
class Needs:
    """What a machine needs: cores, and megabytes of memory and of disk. The disk has room for data and runs."""

    cpu: int
    memory: int
    disk: int


# By variant, and for an edge image.
NEEDS = {
    NO_FRAMEWORK: Needs(1, 1024, 4096),
    "edge": Needs(1, 1024, 4096),
    **{name: Needs(2, framework.memory, framework.disk) for name, framework in FRAMEWORKS.items()},
    "llm": Needs(4, 8192, 32768),
}

_GPU_NEEDS = Needs(4, 8192, 32768)  # at least, with NVIDIA's driver and what PyTorch needs of CUDA: seven gigabytes
_EPOCH = 1767225600  # 2026-01-01: the date of every file, unless SOURCE_DATE_EPOCH says another
_NAMESPACE = uuid.UUID("5f2d1c1e-7a0b-5c39-9d55-0f1e2d3c4b5a")
_UNITS = {"M": 20, "G": 30, "T": 40}


@dataclass(frozen=True)
class ImageSpec:
    """One image.

    `gpu` is whether it has NVIDIA's driver. `size` is that of the virtual disk in bytes; None means what is in it and
    room to work. `added` are the packages besides those of the variant, each as name==version with its hash.
    """

    variant: str = "sklearn"
    edge: bool = False
    gpu: bool = False
    flower: str = FLOWER_TESTED
    size: int | None = None
    added: tuple[str, ...] = ()
    mirror: str = MIRROR

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.variant not in VARIANTS:
            raise OneflowerError(f"There is no variant {self.variant!r}.", f"Give one of {', '.join(VARIANTS)}.")
        if self.edge and self.variant != NO_FRAMEWORK:
            raise OneflowerError(
                f"An edge image carries no framework, and {self.variant} is one.", "Leave out --framework or --edge."
            )
        if self.gpu and self.framework not in GPU_PACKAGES:
            able = [name for name, framework in VARIANTS.items() if framework in GPU_PACKAGES]
            raise OneflowerError(
                f"There is no image with NVIDIA's driver for {'edge' if self.edge else self.variant}: nothing in it "
                "would use a GPU.",
                f"Give --framework {' or '.join(able)}, or leave out --gpu.",
            )

    @property
    def framework(self) -> str:
        """The framework whose pinned list of packages is installed."""
        return VARIANTS[self.variant]

    @property
    def label(self) -> str:
        """The variant as manifests and catalogues call it."""
        return "edge" if self.edge else f"{self.variant}{GPU if self.gpu else ''}"

    @property
    def packages(self) -> str:
        """The name of the pinned list of packages that is installed."""
        return f"{self.framework}{GPU if self.gpu else ''}"

    @property
    def needs(self) -> Needs:
        """What a machine that boots it needs."""
        usual = NEEDS["edge" if self.edge else self.variant]
        if not self.gpu:
            return usual
        least = _GPU_NEEDS
        return Needs(max(usual.cpu, least.cpu), max(usual.memory, least.memory), max(usual.disk, least.disk))

    @property
    def name(self) -> str:
        """What the files of the image are called."""
        driver = f"-nvidia{nvidia.SERIES}" if self.gpu else ""
        usual = f"oneflower-{self.label}{driver}-flwr-{self.flower}"
        if not self.added:
            return usual
        return f"{usual}-with-{hashlib.sha256(' '.join(self.added).encode()).hexdigest()[:8]}"

    @property
    def epoch(self) -> int:
        """The date of every file, in seconds since 1970."""
        return int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))

    def identifier(self, of: str) -> uuid.UUID:
        """Return a UUID that is the same in each build of this image."""
        return uuid.uuid5(_NAMESPACE, f"{self.name} {of}")


def parse_size(text: str) -> int:
    """Return the bytes that a size like 8G means. Raises `OneflowerError`."""
    match = re.fullmatch(r"(\d+)([MGT])i?B?", text.strip(), re.IGNORECASE)
    if match is None or not int(match[1]):
        raise OneflowerError(f"{text!r} is not a valid size.", "Give a number and M, G or T: 8G.")
    return int(match[1]) << _UNITS[match[2].upper()]
