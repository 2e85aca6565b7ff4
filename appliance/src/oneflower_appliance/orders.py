"""What the agent tells Flower's processes, and what these report back: each written and read here.

There are two ways. Orders are one line of JSON on the standard input of a process that has already imported Flower. The
environment holds what the child processes need too: ServerApps, ClientApps and their tasks. A process reports in a
file that its orders name, and by its exit status.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = tuple[str, int]

# The header in which a client of a SuperLink's API says who it is. Whose process it is, the kernel says.
WHO_HEADER = "X-Oneflower-Who"

# The environment of Flower's processes.
RUNS_VARIABLE = "ONEFLOWER_RUNS"  # the folder that has one folder for each run
PACKAGES_VARIABLE = "ONEFLOWER_APP_PACKAGES"  # the folder with the packages that were installed for apps, if any
SERVER_DATA_VARIABLE = "ONEFLOWER_SERVER_DATA"  # the folder with data for ServerApps, if any
FORM_VARIABLE = "ONEFLOWER_FORM"  # the variables of the form that a ServerApp may read, as JSON
LEVEL_VARIABLE = "ONEFLOWER_LOG_LEVEL"  # FL_LOG_LEVEL
FORMAT_VARIABLE = "ONEFLOWER_LOG_FORMAT"  # FL_LOG_FORMAT
EXECUTION_VARIABLE = "ONEFLOWER_EXECUTION"  # FL_EXECUTION
WIRE_VARIABLE = "ONEFLOWER_WIRE_DTYPE"  # FL_WIRE_DTYPE
FRAMEWORK_VARIABLE = "ONEFLOWER_FRAMEWORK"  # ML_FRAMEWORK, on a SuperNode
CA_VARIABLE = "ONEFLOWER_CA"  # the file with the CA of the SuperLink, if it speaks TLS
PROFILE_VARIABLE = "ONEFLOWER_PROFILE"  # FL_PROFILE, on a SuperNode
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"  # CUDA's own: the GPUs that apps may use
MEMORY_VARIABLE = "ONEFLOWER_GPU_MEMORY_FRACTION"  # FL_GPU_MEMORY_FRACTION, on a SuperNode that may use its GPUs

PRIVACY_LEDGER = "privacy.json"  # the file in the home of a node's machine

TASK_VARIABLE = "ONEFLOWER_TASK"  # how a ClientApp is confined, as `Confinement` writes it

# The key in a node config for the folder with the node's own data.
DATA_PATH = "data-path"

# The keys in the node config of a node of another site: its site, and the number of that site, from 1.
SITE, SITE_INDEX = "site", "site-index"

# The key in what a ServerApp tells nodes for the number of the last round, in which they may do something more.
LAST_ROUND = "last-round"

# How the names of metrics begin that a node reports of a model of its own, trained further from the last one.
FINE_TUNED = "fine_tuned_"

# Seconds. Each heartbeat makes the SuperLink list the node as online for 60 s. Flower sends one every 23 s at most. A
# request for messages counts as one, too, but is answered only after 25 s, and the next one as much later.
_RECENT = 55.0

_AWHILE = 10.0  # seconds for which a node may work without anybody looking whether its round has ended


DRAIN = signal.SIGUSR1  # to a SuperNode's process: end what was begun, take nothing more, and stop


class Ending(IntEnum):
    """Exit statuses of Flower's processes that say why they ended. Every other reason ends in another status."""

    NO_STATE = 95  # the disk or the database cannot be written
    UNTRUSTED = 96  # the SuperLink's certificate is not signed by the CA that this machine trusts
    REFUSED = 97  # the SuperLink refused what this SuperNode signed
    ADDRESS_TAKEN = 98  # another program listens at the address that the process was given


@dataclass(frozen=True)
class CertificateFiles:
    """Paths of the CA certificate, the server certificate and the server key."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def are_own(self) -> bool:
        """Whether the SuperLink's machine made them. Then certificate and key are one file."""
        return self.certificate == self.key

    @property
    def wish(self) -> Path:
        """The file whose existence tells the agent to replace the CA."""
        return self.ca.with_name("replace-ca")


@dataclass(frozen=True)
class SuperLinkOrders:
    """How a SuperLink runs. Without `certificates` it speaks plain HTTP.

    `object_memory` is how many MiB of the contents of messages may be in memory; 0 means the default.
    `count_bytes` says whether the bytes that SuperNodes send and get are counted.
    """

    fleet: Address
    control: Address
    database: Path
    runs: Path
    certificates: CertificateFiles | None
    authenticate: bool
    object_memory: int = 0
    count_bytes: bool = False

    def line(self) -> str:
        """Return them as one line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def read(cls, line: str) -> SuperLinkOrders:
        """Read what `line` wrote."""
        said = json.loads(line)
        files = said["certificates"]
        return cls(
            fleet=_address(said["fleet"]),
            control=_address(said["control"]),
            database=Path(said["database"]),
            runs=Path(said["runs"]),
            certificates=CertificateFiles(**{name: Path(path) for name, path in files.items()}) if files else None,
            authenticate=said["authenticate"],
            object_memory=said["object_memory"],
            count_bytes=said["count_bytes"],
        )


@dataclass(frozen=True)
class SuperNodeOrders:
    """How a SuperNode runs.

    `superlink` is host:port. `listen` is where it serves its tasks. `ca` is the certificate to trust, or None for plain
    HTTP. `key` is the private key that identifies it, or None. It writes a `NodeReport` to `report`. `previous_id` is
    the node id of an earlier process of this node, whose session may still be open. 0 retries and seconds mean no
    limit. `policy` is the text of the site's policy, empty if there is none; what then waits for an approval is in the
    folder `asks`. `ledger` is the file with what the node spent of its privacy budget. `proxy` is FL_PROXY, which may
    have a password. The SuperLink counts the node as offline `offline_after` seconds after its last sign of life; 0
    means Flower's 60.
    """

    superlink: str
    listen: Address
    ca: Path | None
    key: Path | None
    report: Path
    node_config: Mapping[str, str] = field(default_factory=dict)
    previous_id: str = ""
    max_retries: int = 0
    max_wait_time: int = 0
    policy: str = ""
    ledger: Path = Path(PRIVACY_LEDGER)
    proxy: str = field(default="", repr=False)
    offline_after: int = 0
    asks: Path = Path()

    def line(self) -> str:
        """Return them as one line."""
        return json.dumps({**asdict(self), "node_config": dict(self.node_config)}, default=str)

    @classmethod
    def read(cls, line: str) -> SuperNodeOrders:
        """Read what `line` wrote."""
        said = json.loads(line)
        paths = {name: Path(said[name]) if said[name] else None for name in ("ca", "key")}
        paths |= {name: Path(said[name]) for name in ("report", "asks", "ledger")}
        return cls(**{**said, **paths, "listen": _address(said["listen"])})


@dataclass(frozen=True)
class Confinement:
    """How the tasks of a SuperNode are confined: time in seconds and memory in MiB (0 for no limit), network and GPUs.

    `address` is where the SuperNode serves its tasks. `readable` and `writable` are the paths that they need besides
    the system and the packages of Python. `max_gpus` is None for all GPUs. Why a task was ended is left in the folder
    `ended`, which is empty if that is reported in another way.
    """

    address: Address
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    seconds: int = 0
    memory: int = 0
    egress: str = "any"
    max_gpus: int | None = None
    ended: str = ""

    def line(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Confinement:
        """Read what `line` wrote."""
        said = json.loads(line)
        paths = {name: tuple(said[name]) for name in ("readable", "writable")}
        return cls(**{**said, **paths, "address": _address(said["address"])})


@dataclass(frozen=True)
class NodeReport:
    """What a SuperNode's process reports: the id that its SuperLink gave the node, and what it knows of its own health.

    `heard` is when it sent the last heartbeat that the SuperLink acknowledged, in seconds of this machine's monotonic
    clock. It is None before the first, and after one that was not acknowledged. `working_since` is when the node took a
    message, by the same clock, and None once it asks for the next. `watched` says whether the SuperLink looks whether
    the round of that message has ended, and `stuck` that it has. `trains` says whether that message asks for training.
    `worked` is how many seconds of tasks have ended, all together, and `trained` how long the last training took.
    `key_order` names the SuperLink's last order to make another key, and `key_order_given` is when that was, by this
    machine's time of day.
    """

    node_id: str
    heard: float | None = None
    working_since: float | None = None
    watched: bool = False
    stuck: bool = False
    trains: bool = False
    worked: float = 0.0
    trained: float = 0.0
    key_order: str = ""
    key_order_given: float = 0.0

    @property
    def shows_online(self) -> bool:
        """Whether it shows that the SuperLink lists the node as online, and that the node is not stuck.

        If it does not, the SuperLink has to be asked.
        """
        now = time.monotonic()
        alone = self.working_since is not None and not self.watched and not 0 <= now - self.working_since < _AWHILE
        return not alone and not self.stuck and self.heard is not None and 0 <= now - self.heard < _RECENT

    def write(self, path: Path) -> None:
        """Write it for the agent. Raises `OneflowerError`."""
        write_atomic(path, json.dumps(asdict(self)) + "\n", SHARED, synced=False)

    @classmethod
    def read(cls, path: Path) -> NodeReport | None:
        """Return what was reported, None while there is nothing that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def _address(said: Any) -> Address:
    host, port = said
    return str(host), int(port)
