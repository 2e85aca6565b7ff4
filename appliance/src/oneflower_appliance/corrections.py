"""The bugs of Flower that this appliance corrects.

Each entry says what the bug is, where it is in Flower's source, what upstream knows about it, and which releases have
it. A correction is applied to these releases only. Each has a test that shows the bug in the stock function, and so
fails when a release has fixed it (tests/unit/flower/test_corrections.py): then the release leaves the list, and a
correction without releases is deleted.

`upstream` names the pull request that reported, brought or touched the bug. Where it says that a bug is not reported,
the issues and pull requests of flwrlabs/flower (as of November 2026) were searched for its symptom and for the names
in `where`.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

_NOT_REPORTED = "not reported as of flwr 1.42"


@dataclass(frozen=True)
class Correction:
    """A bug of Flower. `releases` are minor releases, such as 1.41; `upstream` has a link."""

    bug: str
    where: str
    upstream: str
    releases: tuple[str, ...]

    @property
    def applies(self) -> bool:
        """Whether the Flower installed here has the bug."""
        return ".".join(importlib.metadata.version("flwr").split(".")[:2]) in self.releases


ANSWER_IN_TURN = Correction(
    "When a run is stopped while a SuperNode takes a message of it, the message is dropped and its task is not. The "
    "loop then takes the reply to that for the reply to its next message, and from there on sends each reply one "
    "message too late. The round waits forever.",
    "flwr/supernode/start_client_internal.py: _pull_and_store_message, RunNotRunningException after create_task",
    "https://github.com/flwrlabs/flower/pull/7079 (its review warns of tasks without a message; corrected there for "
    "other errors, not for this one)",
    ("1.41", "1.42"),
)
HALF_REPLIES = Correction(
    "When a ClientApp dies with a part of its reply handed over, the SuperNode's loop waits forever for the rest.",
    "flwr/supernode/start_client_internal.py: _push_messages, yield_object_contents",
    f"{_NOT_REPORTED}; the wait came with https://github.com/flwrlabs/flower/pull/5610",
    ("1.41", "1.42"),
)
LOST_DELIVERIES = Correction(
    "When a SuperNode dies with a message and is back before its heartbeat is missed, the message is neither delivered "
    "again nor answered. The round waits for it until it times out. The same holds for half a reply.",
    "flwr/server/superlink/linkstate/sql_linkstate.py: SqlLinkState.activate_node, get_message_res",
    f"{_NOT_REPORTED}; nodes that stay away are handled since https://github.com/flwrlabs/flower/pull/4968",
    ("1.41", "1.42"),
)
ENDED_RUNS_ARE_KEPT = Correction(
    "A SuperNode keeps in memory every run that it ever had, its app (up to 10 MB), its tasks and what objects are "
    "left over. Nothing removes them.",
    "flwr/supernode/nodestate/in_memory_nodestate.py: InMemoryNodeState; "
    "flwr/supercore/corestate/in_memory_corestate.py",
    f"{_NOT_REPORTED}; it came with https://github.com/flwrlabs/flower/pull/5402; a SuperLink deletes what is left of "
    "an ended run since https://github.com/flwrlabs/flower/pull/7612",
    ("1.41", "1.42"),
)
ADAPTIVE_CLIPPING = Correction(
    "The clipping norm is to grow when too many updates are longer than it (Andrew et al., 2021). Flower counts those "
    "that are longer and puts the count where the paper has those that are not, so that its norm shrinks then.",
    "flwr/serverapp/strategy/dp_adaptive_clipping.py: "
    "DifferentialPrivacyServerSideAdaptiveClipping._geometric_update, aggregate_train",
    f"{_NOT_REPORTED}; it came with https://github.com/flwrlabs/flower/pull/5905",
    ("1.41", "1.42"),
)
CORRECTIONS = (ANSWER_IN_TURN, HALF_REPLIES, LOST_DELIVERIES, ENDED_RUNS_ARE_KEPT, ADAPTIVE_CLIPPING)
