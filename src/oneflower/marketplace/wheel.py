"""The wheel of the appliance, made from the package that is installed here: the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile

from oneflower.images.appliance import SOURCE, installed

_DATE = (2026, 1, 1, 0, 0, 0)  # of every file in it
_ABOUT = "Wheel-Version: 1.0\nGenerator: oneflower\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def appliance_wheel() -> tuple[str, bytes]:
    """Return the name and the content of the appliance's wheel."""
    found = installed()
    info = f"oneflower_appliance-{found.version}.dist-info"
    files = {
        f"oneflower_appliance/{path.relative_to(SOURCE)}": path.read_bytes()
        for path in sorted(SOURCE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = (found.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = _ABOUT.encode()
    files[f"{info}/entry_points.txt"] = (found.read_text("entry_points.txt") or "").encode()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return f"oneflower_appliance-{found.version}-py3-none-any.whl", buffer.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
