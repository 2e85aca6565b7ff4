"""FireEdge, the server behind Sunstone, as far as it posts forms."""

from __future__ import annotations

import copy
import re


def posted_for(template, name, **filled):
    """Return the `merge_template` that FireEdge posts when a tenant fills in some fields and leaves the others.

    That it is the same as what was recorded is tested in test_sunstone.py.
    """
    values = {}
    for key, text in template["user_inputs"].items():
        _, kind, _, _, default = text.split("|")
        values[key] = filled.get(key, re.sub(r"\.0$", "", default) if kind == "number-float" else default)
    return {"user_inputs_values": values, "name": name, "roles": copy.deepcopy(template["roles"])}
