"""Every context variable of a federation, declared once.

From these declarations come the user inputs of the service template, the client's defaults and checks, the checks
that the appliance repeats at boot, and docs/parameters.md. OneFlow itself checks neither type nor range and applies
no default. It only requires that every declared input has a value, so nothing else would find a wrong one.

The form of Sunstone is declared here too: a variable that it asks for has a `field`.

Each variable is on exactly one level. *service* variables must be the same on both roles. *superlink* and *supernode*
variables concern one role, and the other never sees them.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from oneflower_appliance.cron import read_zone
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.form import OF_FEDERATION, Field, Group
from oneflower_appliance.formats import (
    is_loopback,
    read_duration,
    read_quorum,
    split_address,
    split_names,
    split_networks,
    split_node_config,
)
from oneflower_appliance.gpu_parameters import GPU, MIXED_PRECISION
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.metrics import DCGM_PORT
from oneflower_appliance.packages import check_index, read_packages
from oneflower_appliance.parameter import Kind, Level, Parameter, Value
from oneflower_appliance.proxy import Proxy
from oneflower_appliance.roles import PROFILES, STANDARD
from oneflower_appliance.run_privacy import CENTRAL, LOCAL
from oneflower_appliance.site_choice import read_sites
from oneflower_appliance.site_policy import check_value
from oneflower_appliance.use_cases import FRAMEWORKS, NO_USE_CASE, TREE_STRATEGIES, USE_CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FLOWER_TESTED = "1.42.0"
FLOWER_MINORS = ("1.41", "1.42")


def _readable(split: Callable[[str], object]) -> Callable[[Value], bool]:
    def check(value: Value) -> bool:
        try:
            split(str(value))
        except (OneflowerError, ValueError):
            return False
        return True

    return check


def _number(accepts: Callable[[float], bool]) -> Callable[[Value], bool]:
    return lambda value: accepts(float(value))


def _is_lifetime(value: Value) -> bool:
    try:
        return 10 <= read_duration(str(value)) <= 36500 * 86400
    except ValueError:
        return False


def _version(value: Value) -> bool:
    return bool(re.fullmatch(r"\d+\.\d+\.\d+", str(value))) and str(value).rpartition(".")[0] in FLOWER_MINORS


MEAN_STRATEGIES = ("FedAvg", "FedProx", "FedAdam", "FedYogi", "FedAdagrad")  # they need the mean of the updates alone
STRATEGIES = (
    *MEAN_STRATEGIES, "FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg", *TREE_STRATEGIES,
)  # fmt: skip
PRIVACY = ("none", CENTRAL, LOCAL)
SITE_EVALUATION = ("end", "round", "no")
PERSONALIZATION = ("none", "fedbn", "fedper")
CONTROL_PORT, FLEET_PORT, SUPERNODE_PORT = 8000, 9092, 9094
FLOWER_PORTS = (CONTROL_PORT, 9091, FLEET_PORT, 9093, SUPERNODE_PORT)
_TAKEN = (*FLOWER_PORTS, DCGM_PORT)


def _is_data_path(value: Value) -> bool:
    return bool(re.fullmatch(r"/[^\"'\\\x00-\x1f]*", str(value)))


_AT_LEAST_ONE = _number(lambda n: n >= 1)
_NOT_NEGATIVE = _number(lambda n: n >= 0)
_POSITIVE = _number(lambda n: n > 0)
_CHECKPOINTS = ("FL_CHECKPOINT_ENABLED", ("YES",))
_ADAPTIVE = ("FedAdam", "FedYogi", "FedAdagrad")
_PRIVATE = ("FL_PRIVACY", ("dp-central", "dp-local"))
_SECURE = ("FL_SECURE_AGGREGATION", ("YES",))
_METRICS = ("FL_METRICS_ENABLED", ("YES",))

_SERVICE = [
    Parameter("FLOWER_VERSION", Level.SERVICE, Kind.TEXT, FLOWER_TESTED, "Flower release on every VM",
              f"a release x.y.z of a supported series ({', '.join(FLOWER_MINORS)})", check=_version),
    Parameter("FL_TLS_ENABLED", Level.SERVICE, Kind.BOOLEAN, "YES", "TLS on every Flower connection", "YES or NO"),
    Parameter("FL_SUPERNODE_AUTH", Level.SERVICE, Kind.BOOLEAN, "YES",
              "Only SuperNodes of this service may join, each with its own key", "YES or NO"),
    Parameter("FL_LOG_LEVEL", Level.SERVICE, Kind.LIST, "INFO", "Log level of Flower and of the agent",
              "one of DEBUG, INFO, WARNING, ERROR", options=("DEBUG", "INFO", "WARNING", "ERROR")),
    Parameter("FL_LOG_FORMAT", Level.SERVICE, Kind.LIST, "text", "Log lines as text, or as one JSON object per line",
              "one of text, json", options=("text", "json")),
    Parameter("FL_SSL_CA_CERTFILE", Level.SERVICE, Kind.PEM, "", "CA certificate to trust, as PEM or its base64",
              "a PEM certificate, raw or base64",
              field=Field(Group.JOIN, 3, "CA",
                          "Its CA certificate, as PEM or its base64. Not needed with an invitation")),
    Parameter("FL_EXECUTION", Level.SERVICE, Kind.LIST, "warm",
              "warm: a process with the imports loaded starts tasks at once. stock: tasks start as in plain Flower",
              "one of warm, stock", options=("warm", "stock")),
    Parameter("FL_WIRE_DTYPE", Level.SERVICE, Kind.LIST, "float32",
              "How the float32 and float64 arrays of models travel. bfloat16, float16: half the bytes, fewer digits. "
              "float32 = as they are",
              "one of float32, bfloat16, float16", options=("float32", "bfloat16", "float16")),
    Parameter("FL_PACKAGES", Level.SERVICE, Kind.TEXT, "",
              "Packages for every VM besides those of its image, installed before it is ready: what `oneflower bundle` "
              "prints. Empty = none",
              "packages as name==version --hash=sha256:..., or a list as packages.txt --hash=sha256:...",
              check=_readable(read_packages),
              field=Field(Group.PACKAGES, 1, "LIST",
                          "Packages that your app needs: the list that oneflower bundle writes. Empty = none")),
    Parameter("FL_PACKAGE_INDEX", Level.SERVICE, Kind.TEXT, "",
              "Where the packages come from: the https URL of a package index, or a folder of wheels on every VM",
              "an https URL without a password, or an absolute path", check=_readable(check_index),
              field=Field(Group.PACKAGES, 2, "INDEX",
                          "Where they come from: the https URL of a package index, or the bundle's folder on the "
                          "machines")),
    Parameter("FL_PACKAGE_HASHES", Level.SERVICE, Kind.BOOLEAN, "YES",
              "Install only packages whose version and hash is given", "YES or NO"),
    Parameter("FL_METRICS_ENABLED", Level.SERVICE, Kind.BOOLEAN, "NO",
              "Every machine has metrics for Prometheus", "YES or NO"),
    Parameter("FL_METRICS_PORT", Level.SERVICE, Kind.NUMBER, "9101", "Port of the metrics",
              f"a port from 1024 to 65535 that nothing else here uses ({', '.join(map(str, _TAKEN))})",
              check=_number(lambda p: 1024 <= p <= 65535 and p not in _TAKEN), only=_METRICS),
    Parameter("FL_METRICS_ALLOWED", Level.SERVICE, Kind.TEXT, "",
              "Who may read the metrics over the network: addresses and networks, like 10.0.0.0/24. "
              "Empty = only programs on the machine",
              "a comma-separated list of IP addresses and networks", check=_readable(split_networks), only=_METRICS),
]  # fmt: skip

_SUPERLINK = [
    Parameter("FL_NUM_ROUNDS", Level.SUPERLINK, Kind.NUMBER, "3", "Number of training rounds",
              "an integer of at least 1", check=_AT_LEAST_ONE, key="num-server-rounds",
              field=Field(Group.TRAINING, 3, "ROUNDS")),
    Parameter("FL_STRATEGY", Level.SUPERLINK, Kind.LIST, "FedAvg", "Aggregation strategy",
              f"one of {', '.join(STRATEGIES)}", options=STRATEGIES, key="strategy",
              field=Field(Group.TRAINING, 4, "STRATEGY")),
    Parameter("FL_MODEL", Level.SUPERLINK, Kind.TEXT, "",
              "Model: cnn, cnn-bn or resnet18 for images; a folder or hub name for an LLM. Empty = chosen by the data",
              "a name or a path", check=lambda v: bool(re.fullmatch(r"[\w./-]+", str(v))), key="model",
              field=Field(Group.TRAINING, 5, "MODEL")),
    Parameter("FL_MIN_FIT_CLIENTS", Level.SUPERLINK, Kind.NUMBER, "2", "Nodes that must train in a round",
              "an integer of at least 1", check=_AT_LEAST_ONE, key="min-train-nodes"),
    Parameter("FL_MIN_EVALUATE_CLIENTS", Level.SUPERLINK, Kind.NUMBER, "2", "Nodes that must evaluate in a round",
              "an integer of at least 1", check=_AT_LEAST_ONE, key="min-evaluate-nodes"),
    Parameter("FL_MIN_AVAILABLE_CLIENTS", Level.SUPERLINK, Kind.NUMBER, "2", "Nodes needed before a round starts",
              "an integer of at least 1", check=_AT_LEAST_ONE, key="min-available-nodes",
              field=Field(Group.NODES, 1, "NEEDED", "Nodes needed before a round starts: no more than there are")),
    Parameter("FL_PROXIMAL_MU", Level.SUPERLINK, Kind.FLOAT, "1.0", "Weight of the proximal term",
              "a number of at least 0", check=_NOT_NEGATIVE, key="proximal-mu", only=("FL_STRATEGY", ("FedProx",)),
              field=Field(Group.EXPERT, 1, "PROXIMAL_MU", "Weight of the proximal term (FedProx)")),
    Parameter("FL_SERVER_LR", Level.SUPERLINK, Kind.FLOAT, "0.1", "Learning rate of the server",
              "a number above 0", check=_POSITIVE, key="server-lr", only=("FL_STRATEGY", _ADAPTIVE),
              field=Field(Group.EXPERT, 3, "SERVER_LR", "Learning rate of the server (FedAdam, FedYogi, FedAdagrad)")),
    Parameter("FL_CLIENT_LR", Level.SUPERLINK, Kind.FLOAT, "0.1", "Learning rate of the nodes",
              "a number above 0", check=_POSITIVE, key="client-lr", only=("FL_STRATEGY", (*_ADAPTIVE, "QFedAvg")),
              field=Field(Group.EXPERT, 2, "CLIENT_LR",
                          "Learning rate of the nodes (QFedAvg, FedAdam, FedYogi, FedAdagrad)")),
    Parameter("FL_NUM_MALICIOUS", Level.SUPERLINK, Kind.NUMBER, "0", "Malicious nodes that the strategy tolerates",
              "an integer of at least 0", check=_NOT_NEGATIVE, key="num-malicious",
              only=("FL_STRATEGY", ("Krum", "MultiKrum", "Bulyan")),
              field=Field(Group.EXPERT, 4, "MALICIOUS", "Malicious nodes to tolerate (Krum, MultiKrum, Bulyan)")),
    Parameter("FL_TRIM_BETA", Level.SUPERLINK, Kind.FLOAT, "0.2", "Share of values dropped at each end",
              "a number above 0 and below 0.5", check=_number(lambda b: 0 < b < 0.5), key="trim-beta",
              only=("FL_STRATEGY", ("FedTrimmedAvg",))),
    Parameter("FL_FAIRNESS_Q", Level.SUPERLINK, Kind.FLOAT, "0.1", "How much more weight nodes with a high loss get",
              "a number of at least 0", check=_NOT_NEGATIVE, key="fairness-q", only=("FL_STRATEGY", ("QFedAvg",))),
    Parameter("FL_ROUND_TIMEOUT", Level.SUPERLINK, Kind.NUMBER, "3600",
              "Seconds after which a round ends without the nodes that have not replied",
              "an integer of at least 1", check=_AT_LEAST_ONE,
              field=Field(Group.NODES, 2, "TIMEOUT")),
    Parameter("FL_ROUND_QUORUM", Level.SUPERLINK, Kind.TEXT, "",
              "How many of the nodes that a round asks must have answered before FL_ROUND_TIMEOUT ends it: a share "
              "such as 0.5, or a number such as 2. Empty = the time alone ends it",
              "a share with a point, above 0 and at most 1.0, or a whole number of nodes",
              check=_readable(read_quorum)),
    Parameter("FL_SITE_EVALUATION", Level.SUPERLINK, Kind.LIST, "end",
              "When nodes that the strategy did not ask evaluate the model too, so that all sites are compared: "
              "at the end, in each round, or never", f"one of {', '.join(SITE_EVALUATION)}", options=SITE_EVALUATION),
    Parameter("FL_SITES", Level.SUPERLINK, Kind.TEXT, "",
              "Sites whose nodes take part in runs; - stands for the federation's own nodes. Empty = all",
              "names of sites, or -, separated by commas, each only once", check=_readable(read_sites),
              field=Field(Group.SITES, 2, "NAMES")),
    Parameter("FL_MIN_SITES", Level.SUPERLINK, Kind.NUMBER, "0",
              "Different sites that each round needs. Without them no round begins, and it changes nothing. 0 = any",
              "an integer of at least 0", check=_NOT_NEGATIVE, field=Field(Group.SITES, 1, "LEAST")),
    Parameter("FL_PERSONALIZATION", Level.SUPERLINK, Kind.LIST, "none",
              "Layers that stay at each node: those of batch normalisation (fedbn), or the last one (fedper)",
              f"one of {', '.join(PERSONALIZATION)}", options=PERSONALIZATION, key="personalization"),
    Parameter("FL_PERSONAL_LAYERS", Level.SUPERLINK, Kind.TEXT, "",
              "Names of the arrays that stay at each node, with * for any letters. Empty = those of the last layer",
              "a comma-separated list of names, like head.*,norm.*",
              check=lambda v: bool(re.fullmatch(r"[\w.*?-]+(\s*,\s*[\w.*?-]+)*", str(v))), key="personal-layers",
              only=("FL_PERSONALIZATION", ("fedper",))),
    Parameter("FL_FINE_TUNE_EPOCHS", Level.SUPERLINK, Kind.NUMBER, "0",
              "Epochs for which each node, after the last round, trains a model of its own that stays there. 0 = none",
              "an integer of at least 0", check=_NOT_NEGATIVE, key="fine-tune-epochs"),
    MIXED_PRECISION,
    Parameter("FL_PRIVACY", Level.SUPERLINK, Kind.LIST, "none",
              "Differential privacy: noise added by the SuperLink (central) or by every node (local)",
              f"one of {', '.join(PRIVACY)}", options=PRIVACY, key="privacy",
              field=Field(Group.PRIVACY, 1, "MODE")),
    Parameter("FL_DP_NOISE", Level.SUPERLINK, Kind.FLOAT, "1.0",
              "Noise multiplier: standard deviation of the noise as a multiple of the clipping norm",
              "a number above 0", check=_POSITIVE, key="dp-noise", only=_PRIVATE,
              field=Field(Group.PRIVACY, 2, "NOISE")),
    Parameter("FL_DP_CLIP", Level.SUPERLINK, Kind.FLOAT, "1.0",
              "Clipping norm: the longest update that a node may send (adaptive: in the first round)",
              "a number above 0", check=_POSITIVE, key="dp-clip", only=_PRIVATE,
              field=Field(Group.PRIVACY, 3, "CLIP")),
    Parameter("FL_DP_CLIPPING", Level.SUPERLINK, Kind.LIST, "fixed", "Clipping norm: fixed, or adapted to the updates",
              "one of fixed, adaptive", options=("fixed", "adaptive"), key="dp-clipping", only=_PRIVATE),
    Parameter("FL_SECURE_AGGREGATION", Level.SUPERLINK, Kind.LIST, "NO",
              "The SuperLink learns the sum of the nodes' updates and no single one of them",
              "one of NO, YES", options=("NO", "YES"), key="secure-aggregation"),
    Parameter("FL_SECURE_THRESHOLD", Level.SUPERLINK, Kind.FLOAT, "0.6",
              "Share of a round's nodes that must stay until its end. Always more than half of them",
              "a number above 0 and at most 1", check=_number(lambda s: 0 < s <= 1),
              key="secure-threshold", only=_SECURE),
    Parameter("FL_DP_MAX_EPSILON", Level.SUPERLINK, Kind.FLOAT, "0",
              "Privacy budget of a run: it ends before the round that would spend more. 0 = no limit",
              "a number of at least 0", check=_number(lambda f: 0 <= f < math.inf), only=_PRIVATE),
    Parameter("FL_DP_DELTA", Level.SUPERLINK, Kind.FLOAT, "0.00001", "The delta for which epsilon is given",
              "a number above 0 and below 1", check=_number(lambda f: 0 < f < 1), only=_PRIVATE),
    Parameter("FL_CHECKPOINT_ENABLED", Level.SUPERLINK, Kind.BOOLEAN, "NO", "Save the global model while training",
              "YES or NO",
              field=Field(Group.SURVIVAL, 1, "ENABLED")),
    Parameter("FL_CHECKPOINT_INTERVAL", Level.SUPERLINK, Kind.NUMBER, "5", "Rounds between two checkpoints",
              "an integer of at least 1", check=_AT_LEAST_ONE, only=_CHECKPOINTS,
              field=Field(Group.SURVIVAL, 2, "INTERVAL")),
    Parameter("FL_CHECKPOINT_KEEP", Level.SUPERLINK, Kind.NUMBER, "3", "Checkpoints to keep for each run",
              "an integer of at least 1", check=_AT_LEAST_ONE, only=_CHECKPOINTS),
    Parameter("FL_CHECKPOINT_PATH", Level.SUPERLINK, Kind.TEXT, "",
              "Folder for checkpoints, for example on a mounted volume. Empty = inside the appliance's folder",
              "an absolute path", check=lambda v: str(v).startswith("/"), only=_CHECKPOINTS),
    Parameter("FL_SCHEDULE", Level.SUPERLINK, Kind.TEXT, "",
              "When the run of FL_USE_CASE is started again: cron, as in 0 2 * * *; several lines with ; between them. "
              "Empty = never",
              "five fields of cron, minute, hour, day, month and weekday, or several such lines with ; between them",
              field=Field(Group.SCHEDULE, 2, "TIMES")),
    Parameter("FL_SCHEDULE_ZONE", Level.SUPERLINK, Kind.TEXT, "UTC", "The time zone of FL_SCHEDULE",
              "a time zone that this machine knows, like Europe/Madrid or UTC", check=_readable(read_zone),
              field=Field(Group.SCHEDULE, 3, "ZONE")),
    Parameter("FL_SCHEDULE_FROM", Level.SUPERLINK, Kind.LIST, "last",
              "What a planned run begins with: the model of the federation (last), or a new model (none)",
              "one of last, none", options=("last", "none"),
              field=Field(Group.SCHEDULE, 1, "FROM")),
    Parameter("FL_MIN_GAIN", Level.SUPERLINK, Kind.TEXT, "",
              "With FL_SCHEDULE: by how much a result may be worse than the best so far, in its loss, or accuracy "
              "without a loss, and still become the model of the federation. Empty = by any amount",
              "a number of at least 0", check=_number(lambda n: 0 <= n < math.inf)),
    Parameter("FL_SERVER_DATA_PATH", Level.SUPERLINK, Kind.TEXT, "",
              "Folder with data that ServerApps evaluate on. Empty = data/ in the appliance",
              "an absolute path without quotes and backslashes", check=_is_data_path),
    Parameter("FL_KEEP_RUNS", Level.SUPERLINK, Kind.NUMBER, "20",
              "How many runs are kept, with their results and checkpoints. When a run ends, the oldest go",
              "an integer of at least 1", check=_AT_LEAST_ONE),
    Parameter("FL_OBJECT_MEMORY", Level.SUPERLINK, Kind.NUMBER, "0",
              "Memory of the SuperLink for models on their way, in MiB. What exceeds it is in files. "
              "0 = a quarter of the machine's memory, at most 512",
              "an integer of at least 0", check=_NOT_NEGATIVE),
    Parameter("FL_FLEET_API_ADDRESS", Level.SUPERLINK, Kind.TEXT, "",
              f"Address that SuperNodes connect to. Empty = the VM's address, port {FLEET_PORT}", "host:port",
              check=_readable(split_address)),
    Parameter("FL_CONTROL_API_ADDRESS", Level.SUPERLINK, Kind.TEXT, "",
              f"Address where runs are submitted, loopback only. Empty = 127.0.0.1, port {CONTROL_PORT}",
              "host:port with a loopback host", check=lambda v: is_loopback(str(v))),
    Parameter("FL_DATABASE", Level.SUPERLINK, Kind.TEXT, "state/state.db",
              "State file of the SuperLink: an absolute path, or relative to the appliance's folder",
              "a path", check=lambda v: bool(str(v)) and not str(v).endswith("/") and ".." not in str(v).split("/")),
    Parameter("FL_SSL_CERTFILE", Level.SUPERLINK, Kind.PEM, "", "Your own server certificate, as PEM or its base64",
              "a PEM certificate, raw or base64"),
    Parameter("FL_SSL_KEYFILE", Level.SUPERLINK, Kind.PEM, "",
              "Private key of your own server certificate, as PEM or its base64", "a PEM private key, raw or base64",
              secret=True),
    Parameter("FL_CERT_EXTRA_SAN", Level.SUPERLINK, Kind.TEXT, "", "More names for the generated certificate",
              "a comma-separated list of IP:address and DNS:name", check=_readable(split_names)),
    Parameter("FL_CERT_LIFETIME", Level.SUPERLINK, Kind.TEXT, "730d",
              "How long a server certificate is valid that the SuperLink made. At half of it, another one takes its "
              "place", "a time from 10s to 36500d, such as 12h or 90d", check=_is_lifetime),
    Parameter("FL_CA_LIFETIME", Level.SUPERLINK, Kind.TEXT, "3650d",
              "How long a CA is valid that the SuperLink made. At half of it, another one takes its place, which it "
              "signs", "a time from 10s to 36500d, such as 12h or 90d", check=_is_lifetime),
]  # fmt: skip

_SUPERNODE = [
    Parameter("FL_USE_CASE", Level.SUPERNODE, Kind.LIST, "none", "Pre-built app to train without code",
              f"one of {', '.join((NO_USE_CASE, *USE_CASES))}", options=(NO_USE_CASE, *USE_CASES),
              field=Field(Group.TRAINING, 1, "USE_CASE",
                          "Pre-built app that trains by itself. none = you start an app of your own")),
    Parameter("ML_FRAMEWORK", Level.SUPERNODE, Kind.LIST, "sklearn", "Machine-learning framework on the VMs",
              f"one of {', '.join(FRAMEWORKS)}", options=tuple(FRAMEWORKS), key="framework",
              field=Field(Group.TRAINING, 2, "FRAMEWORK", "Machine-learning framework: one that the image has")),
    Parameter("FL_NODE_CONFIG", Level.SUPERNODE, Kind.TEXT, "",
              "Space-separated key=value pairs for the ClientApp. Empty = the partition is assigned",
              "space-separated key=value pairs, each key once, 0 <= partition-id < num-partitions",
              check=_readable(split_node_config)),
    Parameter("FL_SUPERLINK_ADDRESS", Level.SUPERNODE, Kind.TEXT, "",
              "Address of a SuperLink outside this service. Empty = discover this service's SuperLink", "host:port",
              check=_readable(split_address),
              field=Field(Group.JOIN, 2, "ADDRESS",
                          "The address of its SuperLink, as host:port. Not needed with an invitation")),
    Parameter("FL_PROXY", Level.SUPERNODE, Kind.TEXT, "",
              "HTTP proxy (CONNECT) through which these machines reach the SuperLink. Empty = directly",
              "http://host:port or http://user:password@host:port, with %XX for special characters",
              check=_readable(Proxy.parse), secret=True),
    Parameter("FL_INVITATION", Level.SUPERNODE, Kind.TEXT, "",
              "Invitation to a federation elsewhere, as `oneflower invite` writes it. Empty = of this service",
              "the whole line that `oneflower invite` wrote", check=_readable(Invitation.parse), secret=True,
              field=Field(Group.JOIN, 1, "INVITATION", "The invitation: the whole line")),
    Parameter("FL_OFFLINE_AFTER", Level.SUPERNODE, Kind.NUMBER, "0",
              "Seconds of silence after which the SuperLink counts a node as offline. 0 = 60, and 180 outside the "
              "SuperLink's service and behind FL_PROXY",
              "0, or an integer from 60 to 3600", check=_number(lambda n: n == 0 or 60 <= n <= 3600)),
    Parameter("FL_MAX_RETRIES", Level.SUPERNODE, Kind.NUMBER, "0", "Attempts to reconnect, 0 = no limit",
              "an integer of at least 0", check=_NOT_NEGATIVE),
    Parameter("FL_MAX_WAIT_TIME", Level.SUPERNODE, Kind.NUMBER, "0", "Seconds spent trying to reconnect, 0 = no limit",
              "an integer of at least 0", check=_NOT_NEGATIVE),
    Parameter("FL_DRAIN_TIMEOUT", Level.SUPERNODE, Kind.NUMBER, "120",
              "Seconds that the running task of a node may still take when its machine is shut down. 0 = none",
              "an integer from 0 to 86400", check=_number(lambda n: 0 <= n <= 86400)),
    Parameter("FL_NODE_KEY_LIFETIME", Level.SUPERNODE, Kind.TEXT, "",
              "How long a SuperNode of the service keeps its key. At half of it, it makes another one between two "
              "tasks. Empty = no limit", "a time from 10s to 36500d, such as 12h or 90d", check=_is_lifetime),
    Parameter("FL_PROFILE", Level.SUPERNODE, Kind.LIST, STANDARD,
              "What the machine is made for. edge: as little memory as possible, from 512 MB and half a core on",
              f"one of {', '.join(PROFILES)}", options=PROFILES),
    Parameter("FL_EDGE_BACKOFF", Level.SUPERNODE, Kind.LIST, "exponential",
              "How the wait between discovery attempts grows",
              "one of exponential, fixed", options=("exponential", "fixed")),
    Parameter("FL_EDGE_MAX_BACKOFF", Level.SUPERNODE, Kind.NUMBER, "300",
              "Longest wait between discovery attempts, in seconds. With FL_PROFILE=edge also between looks at a "
              "SuperLink that cannot be reached",
              "an integer of at least 1", check=_AT_LEAST_ONE),
    Parameter("FL_DATA_PATH", Level.SUPERNODE, Kind.TEXT, "",
              "Folder with the node's data; {partition} stands for the node's number. Empty = data/ in the appliance",
              "an absolute path without quotes and backslashes",
              check=_is_data_path, field=Field(Group.DATA, 1, "PATH")),
    Parameter("FL_SITE_POLICY", Level.SUPERNODE, Kind.TEXT, "",
              "What this site allows on its SuperNodes: a site policy, as TOML or its base64. Empty = everything",
              "a site policy that `oneflower policy check` accepts, as TOML or base64", check=_readable(check_value)),
    *GPU,
]  # fmt: skip


PARAMETERS: dict[str, Parameter] = {p.name: p for p in (*_SERVICE, *_SUPERLINK, *_SUPERNODE)}


def of_level(*levels: Level) -> list[Parameter]:
    """Return the parameters of `levels`, in the order of the form."""
    return [parameter for parameter in PARAMETERS.values() if parameter.level in levels]


def form_fields(groups: Sequence[Group] = OF_FEDERATION) -> list[tuple[Field, Parameter]]:
    """Return what the form asks for in these groups, in its order."""
    fields = [(parameter.field, parameter) for parameter in PARAMETERS.values() if parameter.field is not None]
    wanted = [(field, parameter) for field, parameter in fields if field.group in groups]
    return sorted(wanted, key=lambda entry: (groups.index(entry[0].group), entry[0].place))
