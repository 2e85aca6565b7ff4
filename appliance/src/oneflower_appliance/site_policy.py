"""The policy of a site: what its operator allows on its SuperNodes.

It is a text in TOML. Neither an app nor the SuperLink's side can change it. `EXAMPLE` shows every key with its meaning.
A key that is not known is an error, so a typing error never allows more than was meant. Without a policy everything is
allowed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from oneflower_appliance import site_privacy
from oneflower_appliance.app_bundle import SIGNATURE, BundleError
from oneflower_appliance.app_signature import SignatureError, Signer, signer_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.site_hours import Hours
from oneflower_appliance.site_privacy import SitePrivacy
from oneflower_appliance.task_limits import KEYS, NOWHERE, TaskLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oneflower_appliance.app_bundle import Bundle

PATH = "/etc/oneflower/site-policy.toml"
ANY, SIGNED, LISTED, ASK = ALLOWED = ("any", "signed", "listed", "ask")
_HASH = re.compile(r"[0-9a-f]{64}")
_LONGEST_ASK = 3600  # seconds
_DIGEST = 12  # digits of a digest that people compare

EXAMPLE = """\
# The policy of a site: what its operator allows on its SuperNodes.
# `oneflower policy check FILE` checks it. What is left out is not limited.

# Which apps run here:
#   any     every app
#   signed  those that one of `signers` signed (`oneflower sign`), and those in `hashes`
#   listed  those in `hashes`
#   ask     as listed; all else waits for `oneflower policy approve APP`, for at most `ask-seconds` a run (0 to 3600)
apps = "ask"
ask-seconds = 60

# Who may sign, a line each as in an allowed_signers file of OpenSSH. `oneflower trust add` writes them into the file
# allowed_signers beside this one, which counts as well.
signers = [
    # "alice@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8x0d1yZmXvJmW0S0mEwHnFq0nNn2aPp6l8v1m2o3p4",
]

# Content hashes of apps, as `oneflower policy hash APP` prints them. `oneflower policy approve APP` keeps them in the
# file approved.json beside this one, which counts as well.
hashes = []

# When tasks may start. Days are Mon Tue Wed Thu Fri Sat Sun, or from-to. A window may go past midnight.
[hours]
zone = "Europe/Madrid"
open = ["Mon-Fri 20:00-06:00", "Sat-Sun 00:00-24:00"]

# What leaves of an update (docs/privacy.md). The node itself does it to each reply, and the app cannot avoid it.
[privacy]
clip = 1.0           # the largest L2 norm of an update
noise = 1.0          # the standard deviation of the noise, as a multiple of clip
max-epsilon = 50.0   # the budget of each node, for all runs together. Then no more updates leave
delta = 1e-5
metrics = []         # names of metrics that leave as they are, like "num-examples". They are not in epsilon
records = []         # names of other records that leave as they are, like "description". They are not in epsilon
period = "2026"      # another text begins with nothing spent

# What a task may take. With this table, even an empty one, tasks are confined: they read the system, the packages of
# Python, the node's data and `read-only`, they write in the folder of their run, and see nothing else of the machine.
[task]
seconds = 3600       # from 1 to 2592000. Then the task is ended
memory = "8 GiB"     # or MiB, with what it keeps in files in memory. Who takes more is ended
egress = "none"      # any, or none: a task then reaches its SuperNode and nothing else
read-only = []       # more folders that tasks may read, like "/srv/images"
gpu = true           # false: tasks see no GPU
max-gpus = 1         # from 0 to 64. A task sees no other GPU
"""


class PolicyError(Exception):
    """Something that a site's policy does not allow. The text is a sentence with the reason and what to do."""


class NotApprovedError(PolicyError):
    """The app waits for the approval of the site's operator, who may give it at any time."""


@dataclass(frozen=True)
class SitePolicy:
    """What a site allows. `text` is what it was read from."""

    text: str
    apps: str = ANY
    ask_seconds: int = 60
    signers: tuple[Signer, ...] = ()
    hashes: frozenset[str] = frozenset()
    hours: Hours | None = None
    task: TaskLimits | None = None
    privacy: SitePrivacy | None = None

    @classmethod
    def parse(cls, text: str) -> SitePolicy:
        """Read a policy. Raises `OneflowerError` that names everything that is wrong."""
        try:
            said = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _invalid([f"it is not TOML: {error}"]) from error
        problems = [f"{name} is not a key of a policy" for name in sorted(said.keys() - _KEYS.keys())]
        found: dict[str, Any] = {}
        for name, read in _KEYS.items():
            if name in said:
                try:
                    found[name.replace("-", "_")] = read(said[name])
                except ValueError as error:
                    problems += [f"{name}: {line}" for line in str(error).splitlines()]
        task = found.get("task")
        if (
            not problems
            and "privacy" in found
            and found.get("apps", ANY) == ANY
            and not (task and task.egress == NOWHERE)
        ):
            problems.append(
                'privacy: an app of anybody could get around it; confine tasks with [task] and egress = "none", or '
                "choose another value of apps"
            )
        if not problems and found.get("apps") == SIGNED and not found.get("signers") and not found.get("hashes"):
            problems.append('apps = "signed" allows nothing without signers: `oneflower trust add` adds one')
        if problems:
            raise _invalid(problems)
        return cls(text, **found)

    @property
    def digest(self) -> str:
        """What two people compare to know that they speak of the same policy."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_DIGEST]

    @property
    def summary(self) -> str:
        """The digest and what apps are allowed, for people."""
        return f"{self.digest}, apps: {self.apps}"

    def check_app(self, bundle: Bundle, now: datetime) -> str:
        """Return why an app is allowed. Raises `PolicyError` if it is not, `NotApprovedError` if it still can be."""
        if self.apps == ANY:
            return "every app is allowed"
        try:
            found = bundle.content_hash
        except BundleError as error:
            raise PolicyError(f"This site does not allow this app: {error}.") from error
        if found in self.hashes:
            return "it is listed"
        if self.apps == SIGNED:
            try:
                signer = signer_of(bundle.files.get(SIGNATURE), found, self.signers, now)
            except SignatureError as error:
                raise PolicyError(
                    f"This site does not allow this app: it {error}. Have it signed with `oneflower sign`, or ask the "
                    f"site to approve it (content {found})."
                ) from error
            return f"it is signed by {signer.name}"
        if self.apps == ASK:
            raise NotApprovedError(
                f"This app waits for the approval of this site, whose operator runs `oneflower policy approve` for it "
                f"(content {found})."
            )
        raise PolicyError(f"This site does not allow this app: it is not in the site's list (content {found}).")

    def check_time(self, now: datetime) -> None:
        """Raise `PolicyError` if no task may start at a time."""
        if self.hours is not None and not self.hours.are_open(now):
            raise PolicyError(
                f"This site does not train at this time. Its hours are {self.hours}. Run the app in these hours."
            )


def read_text(value: str) -> str:
    """Return the policy in a value that is either TOML or its base64: forms and tools differ. Raises `ValueError`."""
    if re.fullmatch(r"[A-Za-z0-9+/=\s]+", value):
        return base64.b64decode("".join(value.split()), validate=True).decode()
    return value


def check_value(value: str) -> None:
    """Raise `ValueError` unless a value is a policy, in TOML or base64."""
    try:
        SitePolicy.parse(read_text(value))
    except OneflowerError as error:
        raise ValueError(error.sentence) from error


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def _invalid(problems: list[str]) -> OneflowerError:
    return OneflowerError(
        "\n".join(["The policy is not valid:", *(f"  {problem}" for problem in problems)]),
        "`oneflower policy example` prints one with every key.",
        ExitCode.INVALID_INPUT,
    )


def _apps(value: Any) -> str:
    if value not in ALLOWED:
        raise ValueError(f"is {value!r}; expected one of {', '.join(ALLOWED)}")
    return str(value)


def _ask_seconds(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LONGEST_ASK:
        raise ValueError(f"is {value!r}; expected seconds, from 0 to {_LONGEST_ASK}")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("expected a list of texts")
    return value


def _signers(value: Any) -> tuple[Signer, ...]:
    found, problems = [], []
    for line in _texts(value):
        try:
            found.append(Signer.parse(line))
        except SignatureError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(found)


def _hashes(value: Any) -> frozenset[str]:
    if wrong := [one for one in _texts(value) if not _HASH.fullmatch(one)]:
        raise ValueError("\n".join(f"{one!r} is not a content hash: 64 digits of 0-9 and a-f" for one in wrong))
    return frozenset(value)


def table(value: Any, keys: Mapping[str, Callable[[Any], Any]], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a table by `keys`, with what reads each. Raises `ValueError`, a line for each problem."""
    if not isinstance(value, dict):
        raise ValueError("expected a table")  # noqa: TRY004 - the values of a file, not types of a program
    problems = [f"{name} is not a key of this table" for name in sorted(value.keys() - keys.keys())]
    problems += [f"{name} is missing" for name in needed if name not in value]
    found: dict[str, Any] = {}
    for name, read in keys.items():
        if name in value:
            try:
                found[name] = read(value[name])
            except ValueError as error:
                problems.append(f"{name} {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")  # noqa: TRY004 - as above
    return value


def _hours(value: Any) -> Hours:
    found = table(value, {"zone": _text, "open": _texts}, ("zone", "open"))
    return Hours.parse(found["zone"], found["open"])


def _task(value: Any) -> TaskLimits:
    return TaskLimits(**{name.replace("-", "_"): found for name, found in table(value, KEYS).items()})


def _privacy(value: Any) -> SitePrivacy:
    found = table(value, site_privacy.KEYS, site_privacy.NEEDED)
    return SitePrivacy(**{name.replace("-", "_"): one for name, one in found.items()})


_KEYS: dict[str, Callable[[Any], Any]] = {
    "apps": _apps, "ask-seconds": _ask_seconds, "signers": _signers, "hashes": _hashes, "hours": _hours, "task": _task,
    "privacy": _privacy,
}  # fmt: skip
