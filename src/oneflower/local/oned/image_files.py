"""The file of an image, as the datastore drivers of OpenNebula look at it. Nothing is copied.

Sources: ImageManagerActions.cc, ImageManagerProtocol.cc, datastore_mad's libfs.sh, common/stat and fs/cp. What a URL
leads to is not downloaded.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEGABYTE = 1 << 20
_QCOW2 = b"QFI\xfb"
_SIZE_OF_QCOW2 = slice(24, 32)
# What no datastore takes: the core's own files. It adds its home folder.
_NEVER = ("/var/lib/one/", "/etc/one/")
_DIGESTS = {"MD5": "md5", "SHA1": "sha1"}


def size(call: str, template: Mapping[str, Any]) -> int:
    """Return the size of the disk in megabytes. Raises `CoreError` if there is no file to take it from."""
    path = str(template.get("PATH", ""))
    if "://" in path:
        return 0
    if not path:
        if not str(template.get("SIZE", "")).isdigit():
            raise CoreError(f"[{call}] Cannot parse image SIZE: Wrong number or missing SIZE attribute.")
        return int(template["SIZE"])
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(_SIZE_OF_QCOW2.stop)
        length = Path(path).stat().st_size
    except OSError as error:
        why = f"cannot access '{path}' ({error.strerror})"
        raise CoreError(f"[{call}] Cannot parse image SIZE: {why}") from error
    if head.startswith(_QCOW2):
        length = int.from_bytes(head[_SIZE_OF_QCOW2], "big")
    return -(-length // _MEGABYTE)


def copying(template: Mapping[str, Any], datastore: Mapping[str, Any]) -> str:
    """Return why the datastore cannot copy the file, or an empty text."""
    path = str(template.get("PATH", ""))
    if not path or "://" in path:
        return ""
    if _restricted(Path(path).resolve(), datastore):
        why = f"Not allowed to copy image from {path}, check RESTRICTED_DIRS in your datastore"
        return f"Error copying image in the datastore: {why}"
    for attribute in _DIGESTS.keys() & template.keys():
        with Path(path).open("rb") as stream:
            actual = hashlib.file_digest(stream, _DIGESTS[attribute]).hexdigest()
        if actual != template[attribute]:
            return f"Error copying image in the datastore: Error copying {path} to /var/lib/one/datastores"
    return ""


def _restricted(path: Path, datastore: Mapping[str, Any]) -> bool:
    """Whether images may not be copied from there. The folders are the beginning of a pattern, as in the driver."""
    safe, restricted = (str(datastore.get(key, "")).split() for key in ("SAFE_DIRS", "RESTRICTED_DIRS"))
    return not any(re.match(each, str(path)) for each in safe) and any(
        re.match(each, str(path)) for each in (*_NEVER, *restricted)
    )
