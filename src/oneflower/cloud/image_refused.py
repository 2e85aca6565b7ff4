"""What to do when OpenNebula cannot make an image. Its own words say what went wrong, and here is how to fix it.

Nothing is decided by those words: they choose an advice. Where they come from: ImageAPI.cc, ImageManagerActions.cc,
ImageManagerProtocol.cc, and datastore_mad's libfs.sh, downloader.sh and fs/cp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.image_source import ImageSource
    from oneflower.cloud.objects import Datastore

_LOOPBACK = ("localhost", "127.", "::1")
_USUAL_SAFE = "/var/tmp"  # noqa: S108 - the folder that OpenNebula allows in a new datastore

_DOWNLOAD = (
    "The front-end itself downloads the image. Try it there: `curl -fLI {source}`. If that works, the content differs "
    "from the checksum, or the datastore is full."
)
_NOT_THERE = (
    "Check the path. OpenNebula reads the file as its own user, oneadmin, from a folder that the datastore allows "
    "(SAFE_DIRS): {safe}."
)
_NOT_ON_THE_FRONT_END = (
    "OpenNebula reads paths on its front-end only. Copy the image there, then register that path: `scp {file} "
    "{host}:{folder}/`, and `--image {folder}/{file}` with `--manifest` of the file here. Or give a URL that the "
    "front-end can download. Or upload it in Sunstone (Storage, Images) and give its name."
)
_ELSEWHERE = {_NOT_THERE: _NOT_ON_THE_FRONT_END}  # what helps if the front-end is another machine

# What the core says, what helps, and whether it does so for a URL, too: the first that fits.
_ADVICE = (
    (
        ("RESTRICTED_DIRS",),
        (
            "The datastore {store} takes images from {safe} (SAFE_DIRS). Move the file there: `mv {source} {folder}/`. "
            "Or allow its folder: `onedatastore update {id}`, SAFE_DIRS."
        ),
        True,
    ),
    (
        ("Permission denied", "Failed to get image head"),
        (
            "OpenNebula's user, oneadmin, must be able to read it: `chmod 644 {source}`, and every folder above it "
            "must let oneadmin pass. A file below /root or in a home folder is not readable: copy it to {folder}."
        ),
        False,
    ),
    (("No such file", "Cannot determine size"), _NOT_THERE, False),
    (
        ("Not enough space",),
        (
            "The datastore {store} is too full.{free} The image has a disk of {disk} MB. Remove images that nobody "
            "uses (`oneimage list`), or choose another --datastore."
        ),
        True,
    ),
    (
        ("files or image datastore", "FILE_DS", "IMAGE_DS"),
        "The datastore {store} is not for images of disks. Choose one of type img: `onedatastore list`.",
        True,
    ),
    (
        ("only accepts persistent",),
        "All machines of a role share one image, and {store} does not allow that. Choose another --datastore.",
        True,
    ),
    (
        ("already taken",),
        "The image is there, but not usable for you. Look at it: `oneimage show`. Delete it if nobody needs it.",
        True,
    ),
    (
        ("Not authorized",),
        (
            "Register as oneadmin, or let this user create images and use the datastore {store}: `oneacl create '#USER "
            "IMAGE/* CREATE'`, `oneacl create '#USER DATASTORE/#{id} USE'`."
        ),
        True,
    ),
    (
        ("quota",),
        "The quota of this user or group for the datastore {store} is used up: `oneuser quota`.",
        True,
    ),
    (
        ("image format", "Unknown image"),
        "{source} is not an image of a disk: give the .qcow2. A URL must lead to the file, not to a page.",
        True,
    ),
    (
        ("Error copying",),
        (
            "The file differs from its checksum (`md5sum {source}`), or the datastore {store} is full (`df`). The "
            "front-end's /var/log/one/oned.log says which."
        ),
        False,
    ),
    (("",), _NOT_THERE, False),
)


def is_front_end(xmlrpc: str) -> bool:
    """Whether OpenNebula's front-end is this machine, by the address of its core."""
    return (urlsplit(xmlrpc).hostname or "").startswith(_LOOPBACK)


def not_made(name: str, reason: str, source: ImageSource, store: Datastore, xmlrpc: str) -> OneflowerError:
    """Return the error for an image that OpenNebula could not make, for the reason that it gave."""
    advice, for_urls = next((text, urls) for words, text, urls in _ADVICE if any(word in reason for word in words))
    if source.is_url and not for_urls:
        advice = _DOWNLOAD
    if not is_front_end(xmlrpc):
        advice = _ELSEWHERE.get(advice, advice)
    hint = advice.format(
        source=source.source,
        file=source.source.rpartition("/")[2],
        folder=(*store.safe_folders, _USUAL_SAFE)[0],
        safe=", ".join(store.safe_folders) or "no folder",
        store=store.name,
        id=store.id,
        free="" if store.free is None else f" {store.free} MB are free.",
        disk=source.facts.disk or "some thousand",
        host=urlsplit(xmlrpc).hostname,
    )
    return OneflowerError(f"OpenNebula could not create the image {name}: {reason.rstrip('.')}.", hint, ExitCode.CLOUD)
