"""What happened between the recorded exchanges: the requests that were not recorded, and what the guests did.

Each direction is carried out before the exchange whose name it has.
"""

from __future__ import annotations

VALUES = {"FLOWER_VERSION": "1.25.0", "FL_TLS_ENABLED": "YES", "FL_LOG_LEVEL": "INFO"}
LINK = {"FL_NUM_ROUNDS": "5", "FL_STRATEGY": "FedProx"}
NODE = {"FL_NODE_CONFIG": "partition-id=0 num-partitions=2", "FL_CPU": "2"}


def full(service=(), link=(), node=(), **more):
    roles = [
        {"name": "superlink", "user_inputs_values": LINK, **dict(link)},
        {"name": "supernode", "user_inputs_values": NODE, **dict(node)},
    ]
    return {"user_inputs_values": VALUES | dict(service), "roles": roles, **more}


def pem(text):
    return {"template_contents": {"CONTEXT": {"FL_PEM": text}}}


ONE_ROLE = {"user_inputs_values": VALUES, "roles": [{"name": "superlink", "user_inputs_values": LINK}]}
NEW_ROLE = {"name": "newrole", "type": "vm", "template_id": 0, "cardinality": 1}
NATIVE = full({"FL_TLS_ENABLED": True}, {"user_inputs_values": {"FL_NUM_ROUNDS": 7, "FL_STRATEGY": "FedProx"}})
EXTRA = {"name": "extra", "type": "vm", "template_id": 1, "cardinality": 1}

# Attributes that a guest sent in requests that were not recorded, in OneGate's form: `NAME=value`.
UNRECORDED = ("FL_C", "FL_C2", "FL_CA", "FL_CA1", "FL_CA2", "FL_EQ", "FL_FORM", "FL_T1")

DIRECTIONS = {
    "056": [("instantiate", 16, 0, ONE_ROLE)],
    "063": [("instantiate", 18, 0, full({"EXTRA_UNDECLARED": "surplus"}))],
    "069": [("instantiate", 20, 0, NATIVE)],
    "072": [("instantiate", 21, 0, full({"FLOWER_VERSION": ""}))],
    "095": [("instantiate", 28, 0, full(link={"template_contents": {"CONTEXT": {"FL_EXTRA": "from merge"}}}))],
    "098": [("instantiate", 29, 0, full(link=pem("-----BEGIN-----\nabc=\n-----END-----")))],
    "101": [("instantiate", 30, 0, {**full(), "roles": [*full()["roles"], NEW_ROLE]})],
    "105": [("instantiate", 31, 0, full())],
    "109": [("remove all but", ())],
    "112": [("instantiate", 34, 0, full())],
    "119": [
        ("template like", 38, "120", {"user_inputs": {"FL_O": "O|text|o||dflt"}, "name": "ui-optional-default-none"})
    ],
    "127": [("template of reply", 44, "127")],
    "173": [("update", (34, "superlink", 0), 'SERVICE_ID="34"')],
    "182": [("erase", (34, "superlink", 0), "FL_B"), ("put", (34, "superlink", 0), "182", UNRECORDED)],
    "204": [("template of reply", 46, "204")],
    "207": [("fail boot", 47, "superlink")],
    "218": [("ready", 34, "supernode")],
    "230": [("ready", 47, "superlink")],
    "231": [("act", (50, "superlink", 0), "terminate-hard")],
    "236": [("instantiate", 52, 51, {}), ("ready", 47, "supernode")],
    "248": [("act", (47, "superlink", 0), "poweroff")],
    "251": [("act", (47, "superlink", 0), "resume")],
    "261": [("act", (47, "supernode", 0), "terminate-hard")],
    "265": [("template of reply", 55, "265")],
    "270": [("remove", 47)],
    "282": [("remove", 58)],
    "288": [("template of reply", 59, "288")],
    "292": [("alias", 44, (61, "superlink", 0))],
    "299": [("ready", 60, "superlink")],
    "316": [("ready", 60, "supernode")],
    "327": [("scale", 60, "supernode", 4, False)],
    "345": [("ready", 60, "supernode")],
    "347": [("update", (61, "superlink", 0), "K32=x")],
    "363": [("ready", 61, "supernode")],
    "368": [("ready", 60, "supernode")],
    "375": [("change max", 61, "supernode", 20), ("remove all but", (60, 61, 63, 65))],
    "380": [("add role", 61, EXTRA)],
    "399": [("ready", 60, "superlink")],
    "403": [("scale", 60, "superlink", 1, True)],
    "413": [("recover", 65)],
    "430": [("ready", 60, "supernode")],
    "439": [("instantiate", 71, 70, {})],
    "441": [("user", "alice"), ("as", "alice", "template of reply", 72, "441")],
    "445": [("as", "alice", "instantiate", 75, 74, {})],
    "448": [("remove", 73), ("remove", 75)],
    "452": [("instantiate", 77, 76, {})],
    "454": [("alias", 66, (77, "superlink", 0))],
    "457": [("alias", 67, (77, "supernode", 0)), ("alias", 68, (77, "supernode", 1))],
    "461": [("template of reply", 78, "461")],
    "464": [("instantiate", 81, 80, {})],
    "466": [("alias", 70, (81, "superlink", 0))],
    "468": [("remove all but listed", "468")],
}

# Exchanges in which the local cloud's answer differs from the real one, and why.
DEVIATIONS = {
    "the owner of VMs after a restart": (
        {"467"},
        "The VMs that a service lacks when OneFlow is started again belong to serveradmin there, to its owner here.",
    ),
}
