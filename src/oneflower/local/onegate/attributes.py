"""The attributes that a machine sends to OneGate, as OneGate passes them on to the core."""

from __future__ import annotations

import re

from oneflower.local.errors import CloudError

_RESTRICTED = ("SCHED_REQUIREMENTS", "SERVICE_ID", "ROLE_NAME")
_SPECIAL = re.compile(r"[=,\\\n\[\]]")


def escape(text: str) -> str:
    """Return the text of a PUT, with quotes added wherever OneGate thinks that they are missing.

    Its errors (with commas, brackets, backslashes, an equals sign within quotes) are copied.
    Source: escape_attr of onegate-server.rb.
    """
    out, inside, done = [], False, 0
    for found in _SPECIAL.finditer(text):
        index, character = found.start(), found[0]
        before, after = text[index - 1], text[index + 1 : index + 2]
        insert = ""
        if character == "=":
            if not inside and after not in ("[", '"'):
                insert, inside = '="', True
        elif before != '"' and (character not in "[]" or before != "="):
            insert = '"' + character
            inside = inside and character in ",["
        if insert:
            out += [text[done:index], insert]
            done = index + 1
    escaped = "".join([*out, text[done:]]).replace("\\n", "\n")
    return escaped + '"' if inside and escaped[-1] not in ']"' else escaped


def check_restricted(text: str, verb: str) -> None:
    """Raise `CloudError` 403 if the text sets an attribute that a machine may not change."""
    for line in text.split("\n"):
        name = line.split("=")[0]
        if name.upper() in _RESTRICTED:
            raise CloudError(403, f"Attribute ({name}) cannot be {verb}")
