"""Every attribute that a virtual machine publishes of itself through OneGate, declared once.

The agent writes them and the client reads them through these declarations. docs/service-template.md lists them.
OneGate forgets nothing and cannot store an empty value. So a value that is not there, or no longer, is published as
`-`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING = "-"  # not valid base64 either
_DIGITS = re.compile(r"[0-9]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,3})?")


class Publisher(StrEnum):
    """Which machines publish an attribute."""

    SUPERLINK = "SuperLink"
    SUPERNODE = "SuperNode"
    BOTH = "both"


class Coding(StrEnum):
    """How a value is written. OneGate damages quotes, commas, brackets, backslashes and newlines."""

    PLAIN = "plain"
    FLAG = "YES or NO"
    DIGITS = "digits"
    NUMBER = "number"
    BASE64 = "base64"
    PACKED = "packed"


@dataclass(frozen=True)
class Attribute:
    """One attribute. The meaning of a packed one gives its format, or names what reads and writes it.

    The proof in FL_PROOF covers those that are `proven`: a value that another VM wrote does not fit it.
    """

    name: str
    publisher: Publisher
    coding: Coding
    meaning: str
    proven: bool = False

    def write(self, value: str) -> str:
        """Return `value` as it is published."""
        if not value:
            return NOTHING
        return base64.b64encode(value.encode()).decode() if self.coding is Coding.BASE64 else value

    def flag(self, *, value: bool) -> str:
        """Return a flag as it is published."""
        return "YES" if value else "NO"

    def read(self, published: Mapping[str, str]) -> str:
        """Return the value from what a machine published; empty if it is not there or cannot be read."""
        value = published.get(self.name, NOTHING)
        if value == NOTHING:
            return ""
        if self.coding is Coding.DIGITS:
            return value if _DIGITS.fullmatch(value) else ""
        if self.coding is Coding.NUMBER:
            return value if _NUMBER.fullmatch(value) else ""
        if self.coding is not Coding.BASE64:
            return value
        try:
            return base64.b64decode(value, validate=True).decode(errors="replace")
        except ValueError:  # not base64, or not even ASCII
            return ""

    def is_set(self, published: Mapping[str, str]) -> bool:
        """Whether a flag says YES."""
        return self.read(published) == "YES"


_LINK, _NODE, _BOTH = Publisher.SUPERLINK, Publisher.SUPERNODE, Publisher.BOTH

READY = Attribute("READY", _BOTH, Coding.FLAG, "The machine is ready. OneFlow's gate waits for YES")
READY_TIME = Attribute("FL_READY_TIME", _BOTH, Coding.DIGITS, "When it said so, in seconds since 1970 by its own clock")
ERROR = Attribute("FL_ERROR", _BOTH, Coding.BASE64, "Why the machine is not ready")
FEATURES_OFF = Attribute(
    "FL_FEATURES_OFF", _BOTH, Coding.BASE64, "What is off because the release of Flower lacks a name, one line each"
)
PACKAGES = Attribute(
    "FL_PACKAGES", _BOTH, Coding.BASE64, "The packages besides those of the image's variant, one name==version a line"
)
ROLE = Attribute("FL_ROLE", _BOTH, Coding.PLAIN, "superlink or supernode")
VERSION = Attribute("FL_VERSION", _BOTH, Coding.PLAIN, "The release of Flower", proven=True)
RELEASE = Attribute("FL_RELEASE", _BOTH, Coding.PLAIN, "The release of oneflower")

ENDPOINT = Attribute("FL_ENDPOINT", _LINK, Coding.PLAIN, "host:port of the Fleet API, for SuperNodes", proven=True)
CONTROL_ENDPOINT = Attribute(
    "FL_CONTROL_ENDPOINT", _LINK, Coding.PLAIN, "host:port of the Control API, on loopback", proven=True
)
TLS = Attribute("FL_TLS", _LINK, Coding.FLAG, "Whether the Fleet and Control APIs speak TLS", proven=True)
CA_CERT = Attribute("FL_CA_CERT", _LINK, Coding.BASE64, "The CA certificate to trust, in PEM", proven=True)
CERT_EXPIRES = Attribute(
    "FL_CERT_EXPIRES", _LINK, Coding.PLAIN, "The day on which the first of its certificates expires", proven=True
)
CERT_RENEWED = Attribute(
    "FL_CERT_RENEWED", _LINK, Coding.FLAG, "Whether its certificates are replaced before they expire", proven=True
)
SSH_HOST_KEYS = Attribute(
    "FL_SSH_HOST_KEYS", _LINK, Coding.BASE64, "The machine's SSH host keys, one per line", proven=True
)
PROOF = Attribute("FL_PROOF", _LINK, Coding.PLAIN, "Proof for the owner that this machine published these (`proof.py`)")
PARTITIONS = Attribute("FL_PARTITIONS", _LINK, Coding.PACKED, "The partition of each SuperNode: `/COUNT VM:ID VM:ID`")
NODES = Attribute("FL_NODES", _LINK, Coding.PACKED, "The SuperNodes that were admitted: `VM:NODE-ID:FINGERPRINT`")
REFUSED = Attribute("FL_REFUSED", _LINK, Coding.PACKED, "The SuperNodes that were refused: `VM:FINGERPRINT:REASON`")
SITES = Attribute(
    "FL_SITES", _LINK, Coding.PACKED, "The nodes of other sites: `SITE/NUMBER:NODE-ID:STANDING[:TOPIC+TOPIC]`"
)

SCHEDULE = Attribute(
    "FL_SCHEDULED", _LINK, Coding.BASE64, "What its schedule has started and plans, and the model: JSON (`schedule.py`)"
)

RUN_ID = Attribute("FL_RUN_ID", _LINK, Coding.PLAIN, "Flower's id of the newest run")
RUN_APP = Attribute("FL_RUN_APP", _LINK, Coding.PLAIN, "The app of that run, as publisher/name")
RUN_STATUS = Attribute("FL_RUN_STATUS", _LINK, Coding.PLAIN, "Its status, in Flower's words")
RUN_ERROR = Attribute("FL_RUN_ERROR", _LINK, Coding.BASE64, "Why it failed, or what is missing although it completed")
RUN_MODEL = Attribute(
    "FL_RUN_MODEL", _LINK, Coding.PLAIN, "The path of its model on the machine, as soon as there is one"
)
RUN_ROWS = Attribute("FL_RUN_ROWS", _LINK, Coding.PACKED, "Its last rounds (`runs.pack`)")
RUN_FAULT = Attribute("FL_RUN_FAULT", _LINK, Coding.BASE64, "The last node that failed or did not answer: JSON")
RUN_SITES = Attribute(
    "FL_RUN_SITES", _LINK, Coding.BASE64, "On which site the last round's model is worst, by metric: JSON"
)
RUN_PRIVACY = Attribute(
    "FL_RUN_PRIVACY", _LINK, Coding.BASE64, "The epsilon that it has spent, or why that is not known, in a sentence"
)
RUN_FINDINGS = Attribute(
    "FL_RUN_FINDINGS", _LINK, Coding.BASE64, "Which nodes are slow, fail, drift or have worse metrics: JSON"
)
RUN_WAITING = Attribute("FL_RUN_WAITING", _LINK, Coding.BASE64, "What it waits for: nodes, or the approval of a site")
RUN_ROUND = Attribute("FL_RUN_ROUND", _LINK, Coding.PLAIN, "The last completed round")
RUN_ROUNDS = Attribute("FL_RUN_ROUNDS", _LINK, Coding.PLAIN, "The number of rounds of the run")
RUN_NODES = Attribute("FL_RUN_NODES", _LINK, Coding.PLAIN, "The number of nodes that trained in the last round")
RUN_FAILURES = Attribute("FL_RUN_FAILURES", _LINK, Coding.PLAIN, "The number of nodes that failed in the last round")
RUN_SECONDS = Attribute("FL_RUN_SECONDS", _LINK, Coding.PLAIN, "How long the last round took")
RUN_LOSS = Attribute("FL_RUN_LOSS", _LINK, Coding.PLAIN, "The loss of the last evaluation")
RUN_ACCURACY = Attribute("FL_RUN_ACCURACY", _LINK, Coding.PLAIN, "The accuracy of the last evaluation")

PUBLIC_KEY = Attribute(
    "FL_PUBLIC_KEY", _NODE, Coding.BASE64, "The node's public key, by which the SuperLink recognises it, in PEM"
)
NODE_ID = Attribute("FL_NODE_ID", _NODE, Coding.DIGITS, "Flower's id of the node")
PARTITION_ID = Attribute("FL_PARTITION_ID", _NODE, Coding.DIGITS, "The partition that the node took")
NUM_PARTITIONS = Attribute("FL_NUM_PARTITIONS", _NODE, Coding.DIGITS, "The number of partitions")
JOINING = Attribute(
    "FL_JOINING", _NODE, Coding.BASE64, "How this node stands with the SuperLink of another service, in a sentence"
)
CHECKS = Attribute(
    "FL_CHECKS", _NODE, Coding.BASE64, "What the node's agent looked at before it said READY: JSON (`checks.py`)"
)
OWN_DATA = Attribute("FL_OWN_DATA", _NODE, Coding.FLAG, "The node has data of its own")
POLICY = Attribute(
    "FL_POLICY",
    _NODE,
    Coding.BASE64,
    "The policy of the node's site: the start of its SHA-256, and what apps it allows",
)
PRIVACY = Attribute(
    "FL_PRIVACY_SPENT",
    _NODE,
    Coding.BASE64,
    "What the node has spent of its privacy budget: JSON (`privacy_budget.py`)",
)
ASKS = Attribute(
    "FL_ASKS", _NODE, Coding.BASE64, "The apps that wait for the approval of the node's site: JSON (`approvals.py`)"
)
CPU = Attribute("FL_CPU", _NODE, Coding.NUMBER, "How much of the VM's cores Flower and its tasks used, in percent")
MEMORY = Attribute("FL_MEMORY", _NODE, Coding.NUMBER, "How much of the VM's memory is in use, in percent")
GPU = Attribute("FL_GPU", _NODE, Coding.NUMBER, "How busy the VM's GPUs are, in percent. Only with GPUs")
BUSY = Attribute("FL_BUSY", _NODE, Coding.NUMBER, "How much of the last minute the node had a task, in percent")
TASK_SECONDS = Attribute(
    "FL_TASK_SECONDS",
    _NODE,
    Coding.NUMBER,
    "How long the last training task took, or the running one takes so far. 0 after two minutes without a task",
)
USE_CASE = Attribute("FL_USE_CASE", _NODE, Coding.PLAIN, "The variable of the same name, for the SuperLink")
FRAMEWORK = Attribute("ML_FRAMEWORK", _NODE, Coding.PLAIN, "The variable of the same name, for the SuperLink")

ATTRIBUTES: dict[str, Attribute] = {
    found.name: found for found in list(globals().values()) if isinstance(found, Attribute)
}

# The numbers of a SuperNode, which a scaling policy can compare.
NUMBERS = frozenset(name for name, found in ATTRIBUTES.items() if found.coding is Coding.NUMBER)
