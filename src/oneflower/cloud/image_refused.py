"""What to do when OpenNebula cannot make an image. Its own words say what went wrong, and here is how to fix it.

Nothing is decided by those words: they choose an advice. Where they come from: ImageAPI.cc, ImageManagerActions.cc,
ImageManagerProtocol.cc, and datastore_mad's libfs.sh, downloader.sh and fs/cp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.cloud.image_source import ImageSource
    from oneflower.cloud.objects import Datastore

_LOOPBACK = ("localhost", "127.", "::1")
_USUAL_SAFE = "/var/tmp"  # noqa: S108 - the folder that OpenNebula allows in a new datastore


def is_front_end(xmlrpc: str) -> bool:
    """Whether OpenNebula's front-end is this machine, by the address of its core."""
    return (urlsplit(xmlrpc).hostname or "").startswith(_LOOPBACK)


def not_made(name: str, reason: str, source: ImageSource, store: Datastore, xmlrpc: str) -> OneflowerError:
    """Return the error for an image that OpenNebula could not make, for the reason that it gave."""
    advice = next((advise for words, advise in _ADVICE if any(word in reason for word in words)), _other)
    return OneflowerError(
        f"OpenNebula could not create the image {name}: {reason.rstrip('.')}.",
        advice(source, store, xmlrpc),
        ExitCode.CLOUD,
    )


def _missing(source: ImageSource, store: Datastore, xmlrpc: str) -> str:
    if source.is_url:
        return _download(source, store, xmlrpc)
    folder = (*store.safe_folders, _USUAL_SAFE)[0]
    file = source.source.rpartition("/")[2]
    if is_front_end(xmlrpc):
        return (
            "Check the path. OpenNebula reads the file as its own user, oneadmin, from a folder that the datastore "
            f"allows (SAFE_DIRS): {', '.join(store.safe_folders) or 'none'}."
        )
    host = urlsplit(xmlrpc).hostname
    return (
        f"OpenNebula reads paths on its front-end only. Copy the image there, then register that path: "
        f"`scp {file} {host}:{folder}/`, and `--image {folder}/{file}` with `--manifest` of the file here. Or give a "
        "URL that the front-end can download. Or upload it in Sunstone (Storage, Images) and give its name."
    )


def _unreadable(source: ImageSource, store: Datastore, xmlrpc: str) -> str:
    if source.is_url:
        return _download(source, store, xmlrpc)
    return (
        f"OpenNebula's user, oneadmin, must be able to read it: `chmod 644 {source.source}`, and every folder above it "
        "must let oneadmin pass. A file below /root or in a home folder is not readable: copy it to "
        f"{(*store.safe_folders, _USUAL_SAFE)[0]}."
    )


def _restricted(source: ImageSource, store: Datastore, _: str) -> str:
    folder = (*store.safe_folders, _USUAL_SAFE)[0]
    allowed = ", ".join(store.safe_folders) or "no folder"
    return (
        f"The datastore {store.name} takes images from {allowed} (SAFE_DIRS). Move the file there: "
        f"`mv {source.source} {folder}/`. Or allow its folder: `onedatastore update {store.id}`, SAFE_DIRS."
    )


def _full(source: ImageSource, store: Datastore, _: str) -> str:
    free = "" if store.free is None else f" {store.free} MB are free."
    return (
        f"The datastore {store.name} is too full.{free} The image has a disk of {source.facts.disk or 'some thousand'} "
        "MB. Remove images that nobody uses (`oneimage list`), or choose another --datastore."
    )


def _kind(_: ImageSource, store: Datastore, __: str) -> str:
    return f"The datastore {store.name} is not for images of disks. Choose one of type img: `onedatastore list`."


def _persistent(_: ImageSource, store: Datastore, __: str) -> str:
    return f"All machines of a role share one image, and {store.name} does not allow that. Choose another --datastore."


def _taken(_: ImageSource, __: Datastore, ___: str) -> str:
    return "The image is there, but not usable for you. Look at it: `oneimage show`. Delete it if nobody needs it."


def _rights(_: ImageSource, store: Datastore, __: str) -> str:
    return (
        f"Register as oneadmin, or let this user create images and use the datastore {store.name}: "
        f"`oneacl create '#USER IMAGE/* CREATE'`, `oneacl create '#USER DATASTORE/#{store.id} USE'`."
    )


def _quota(_: ImageSource, store: Datastore, __: str) -> str:
    return f"The quota of this user or group for the datastore {store.name} is used up: `oneuser quota`."


def _format(source: ImageSource, _: Datastore, __: str) -> str:
    return f"{source.source} is not an image of a disk: give the .qcow2. A URL must lead to the file, not to a page."


def _download(source: ImageSource, _: Datastore, __: str) -> str:
    return (
        f"The front-end itself downloads the image. Try it there: `curl -fLI {source.source}`. If that works, the "
        "content differs from the checksum, or the datastore is full."
    )


def _copy(source: ImageSource, store: Datastore, xmlrpc: str) -> str:
    if source.is_url:
        return _download(source, store, xmlrpc)
    return (
        f"The file differs from its checksum (`md5sum {source.source}`), or the datastore {store.name} is full "
        f"(`df`). The front-end's /var/log/one/oned.log says which."
    )


def _other(source: ImageSource, store: Datastore, xmlrpc: str) -> str:
    return _missing(source, store, xmlrpc)


# What the core says, and what helps: the first that fits.
_ADVICE: tuple[tuple[tuple[str, ...], Callable[[ImageSource, Datastore, str], str]], ...] = (
    (("RESTRICTED_DIRS",), _restricted),
    (("Permission denied", "Failed to get image head"), _unreadable),
    (("No such file", "Cannot determine size"), _missing),
    (("Not enough space",), _full),
    (("files or image datastore", "FILE_DS", "IMAGE_DS"), _kind),
    (("only accepts persistent",), _persistent),
    (("already taken",), _taken),
    (("Not authorized",), _rights),
    (("quota",), _quota),
    (("image format", "Unknown image"), _format),
    (("Error copying",), _copy),
)
