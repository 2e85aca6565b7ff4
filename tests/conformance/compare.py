"""When two answers count as alike."""

from __future__ import annotations

import re

VOLATILE = {"registration_time", "start_time", "timestamp", "last_eval"}
# The hardware and the history of a VM depend on hosts, drivers and networks, and here on processes.
OF_A_VM = {"ID", "UID", "GID", "UNAME", "GNAME", "NAME", "PERMISSIONS", "LAST_POLL", "RESCHED", "MONITORING", "BACKUPS",
           "USER_TEMPLATE"}  # fmt: skip
ADDRESS = re.compile(r"(ETH\d_(IP|MAC|MASK|NETWORK|GATEWAY|DNS))|IP|MAC|ONEGATE_ENDPOINT|NETWORK|FL_SUPERLINK")


def differences(recorded, actual, vms, path="", lenient=frozenset()):
    """Yield the places where two pieces of JSON differ in shape, type or value. `vms` maps recorded VM ids to ours."""
    key = path.rpartition(".")[2]
    if key in lenient or key in VOLATILE:
        return
    if type(recorded) is not type(actual):
        yield f"{path}: {recorded!r:.80} became {actual!r:.80}"
    elif isinstance(recorded, dict):
        kind = _vm_differences if key == "VM" and "STIME" in recorded else _object_differences
        yield from kind(recorded, actual, vms, path, lenient)
    elif isinstance(recorded, list):
        if len(recorded) != len(actual):
            yield f"{path}: {len(recorded)} entries became {len(actual)}: {actual!r:.200}"
        for index, (a, b) in enumerate(zip(recorded, actual, strict=False)):
            yield from differences(a, b, vms, f"{path}[{index}]", lenient)
    elif key == "deploy_id" or path.endswith("VM.ID"):
        if vms.setdefault(int(recorded), int(actual)) != int(actual):
            yield f"{path}: VM {recorded} became {actual}, which is another one"
    elif recorded != actual and not ADDRESS.fullmatch(key):
        yield f"{path}: {recorded!r:.80} became {actual!r:.80}"


def _object_differences(recorded, actual, vms, path, lenient):
    missing, surplus = set(recorded) - set(actual) - lenient, set(actual) - set(recorded) - lenient
    if missing or surplus:
        yield f"{path}: keys missing {missing}, too many {surplus}"
    for name in recorded.keys() & actual.keys():
        yield from differences(recorded[name], actual[name], vms, f"{path}.{name}", lenient)


def _vm_differences(recorded, actual, vms, path, _lenient):
    if set(recorded) != set(actual):
        yield f"{path}: keys {set(recorded) ^ set(actual)}"
    for name in OF_A_VM & actual.keys():
        yield from differences(recorded[name], actual[name], vms, f"{path}.{name}")
    mine, theirs = actual["TEMPLATE"], recorded["TEMPLATE"]
    yield from differences(
        theirs["CONTEXT"], mine["CONTEXT"], vms | {int(recorded["ID"]): 0}, f"{path}.CONTEXT", {"VMID"}
    )
    if type(mine["NIC"]) is not type(theirs["NIC"]):
        yield f"{path}: the NIC is a {type(mine['NIC'])}"


def summary(body):
    """Return the states of a service and of its roles, with the number of nodes: one step of its lifecycle."""
    return body["state"], [(r["name"], r["state"], len(r.get("nodes", ())), r["cardinality"]) for r in body["roles"]]
