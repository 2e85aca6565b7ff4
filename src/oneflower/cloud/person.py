"""Who runs this program, for the audit logs."""

from __future__ import annotations

import os
import pwd
import socket


def person() -> str:
    """Return who runs this program, according to the system and not to the environment."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}".encode("ascii", "replace").decode()
