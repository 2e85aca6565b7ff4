"""Requests that may be held, which requests may bring their answers, and what each of them is about: its subjects."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.shared_memory import PLACE
from oneflower_appliance.flower.warm.work import NODE, RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ACQUIRE_TASK = "/v1/runtime/acquire-task"
GET_RUN = "/v1/fleet/get-run"
NODE_PULL, NODE_PULL_WHOLE = "/v1/fleet/pull-messages", f"/v1/fleet/{bundles.PULL_WHOLE}"
REPLIES = (
    "/v1/runtime/pull-messages",
    "/v1/runtime/pull-object",
    f"/v1/runtime/{bundles.PULL_OBJECTS}",
    f"/v1/runtime/{bundles.PULL_SHARED}",
    f"/v1/runtime/{bundles.PULL_WHOLE}",
)


@dataclass(frozen=True)
class Change:
    """A request that may bring the answer to a question, and what it is about."""

    question: str
    subjects: Callable[[bytes], Iterable[str]]


@dataclass
class Question:
    """A request that may be held, what it is about, and what shows that it has no answer yet.

    If time alone may bring an answer, the request is asked once more when its time is over. `happened` counts what may
    have brought an answer.
    """

    response: Any
    is_empty: Callable[[Any], bool]
    subjects: Callable[[bytes], Iterable[str]]
    changes_with_time: bool = True
    waiting: dict[str, set[asyncio.Event]] = field(default_factory=dict)
    happened: int = 0

    def has_no_answer(self, body: bytes) -> bool:
        """Whether this answer of the application is none yet."""
        return self.is_empty(self.response.FromString(body))

    @contextmanager
    def news(self, body: bytes) -> Iterator[asyncio.Event]:
        """Yield the event that is set when a subject of a request is woken. It exists only while somebody waits."""
        event, subjects = asyncio.Event(), set(self.subjects(body))
        for subject in subjects:
            self.waiting.setdefault(subject, set()).add(event)
        try:
            yield event
        finally:
            for subject in subjects:
                self.waiting[subject].remove(event)
                if not self.waiting[subject]:
                    del self.waiting[subject]

    def wake(self, subjects: Iterable[str]) -> None:
        """Have the requests asked again that wait for one of these subjects."""
        self.happened += 1
        for subject in subjects:
            for event in self.waiting.get(subject, ()):
                event.set()

    def wake_all(self) -> None:
        """Have all requests asked again."""
        self.wake(list(self.waiting))


class _Raw:
    """An answer that is not read."""

    @staticmethod
    def FromString(body: bytes) -> bytes:  # noqa: N802 - its name in protobuf
        return body


@dataclass(frozen=True)
class _InWhole:
    """Flower's answer in an answer with a whole message."""

    response: Any

    def FromString(self, body: bytes) -> Any:  # noqa: N802 - its name in protobuf
        return self.response.FromString(bundles.Whole.FromString(body).flower)


def catalogue() -> tuple[dict[str, Question], dict[str, list[Change]]]:
    """Return what may be held, and what may bring the answers."""
    runtime, fleet, messages = internals.runtime_messages(), internals.fleet_messages(), internals.object_messages()
    of = _Subjects()
    node_pull, grid_pull = NODE_PULL, "/v1/runtime/pull-messages"
    node_object, task_object = "/v1/fleet/pull-object", "/v1/runtime/pull-object"
    node_objects, task_objects = (f"/v1/{api}/{bundles.PULL_OBJECTS}" for api in ("fleet", "runtime"))
    task_shares = f"/v1/runtime/{bundles.PULL_SHARED}"
    node_whole, grid_whole = NODE_PULL_WHOLE, f"/v1/runtime/{bundles.PULL_WHOLE}"
    questions = {
        ACQUIRE_TASK: Question(runtime.AcquireTaskResponse, _no_task, _nothing),
        # Every idle SuperNode asks this again and again, so it is not asked in vain.
        node_pull: Question(fleet.PullMessagesResponse, _no_messages, _nothing, changes_with_time=False),
        node_whole: Question(_InWhole(fleet.PullMessagesResponse), _no_messages, _nothing, changes_with_time=False),
        # A run may end in many ways, so it is looked at now and then (see `work`), and only then asked again.
        GET_RUN: Question(_Raw, _always, of.work, changes_with_time=False),
        grid_pull: Question(runtime.PullAppMessagesResponse, _no_messages, of.question),
        grid_whole: Question(_InWhole(runtime.PullAppMessagesResponse), _no_messages, _first(of.question)),
        node_object: Question(messages.PullObjectResponse, _not_there_yet, of.pull),
        task_object: Question(messages.PullObjectResponse, _not_there_yet, of.pull),
        node_objects: Question(_Raw, _no_objects, of.bundle),
        task_objects: Question(_Raw, _no_objects, of.bundle),
        task_shares: Question(_Raw, _no_objects, of.bundle),
    }
    changes = {
        "/v1/control/start-run": [Change(ACQUIRE_TASK, _nothing)],
        "/v1/runtime/push-messages": [Change(node_pull, _nothing), Change(node_whole, _nothing)],
        "/v1/fleet/push-messages": [Change(grid_pull, of.replies), Change(grid_whole, of.replies)],
        "/v1/runtime/push-object": [Change(node_object, of.push), Change(node_objects, of.run)],
        "/v1/fleet/push-object": [
            Change(task_object, of.push), Change(task_objects, of.run), Change(task_shares, of.run)
        ],
        f"/v1/runtime/{bundles.PUSH_OBJECTS}": [Change(node_objects, of.bundle), Change(node_object, of.handed)],
        f"/v1/runtime/{bundles.PUSH_SHARED}": [Change(node_objects, of.bundle), Change(node_object, of.shared)],
        f"/v1/fleet/{bundles.PUSH_OBJECTS}": [
            Change(task_objects, of.bundle), Change(task_shares, of.bundle), Change(task_object, of.handed)
        ],
        # Who waits for an object that is not there knows its message, so it was not sent as a whole.
        f"/v1/runtime/{bundles.PUSH_WHOLE}": [Change(node_pull, _nothing), Change(node_whole, _nothing)],
        f"/v1/fleet/{bundles.PUSH_WHOLE}": [
            Change(grid_pull, _first(of.replies)), Change(grid_whole, _first(of.replies))
        ],
    }  # fmt: skip
    return questions, changes


class _Subjects:
    """What requests are about, out of their bodies."""

    def __init__(self) -> None:
        self._runtime, self._fleet = internals.runtime_messages(), internals.fleet_messages()
        self._objects, self._runs = internals.object_messages(), internals.run_messages()

    def work(self, body: bytes) -> list[str]:
        request = _read_as(self._runs.GetRunRequest, body)
        return [f"{RUN}{request.run_id}", f"{NODE}{request.node.node_id}"]

    def pull(self, body: bytes) -> list[str]:
        return [self._objects.PullObjectRequest.FromString(body).object_id]

    def push(self, body: bytes) -> list[str]:
        return [self._objects.PushObjectRequest.FromString(body).object_id]

    def run(self, body: bytes) -> list[str]:
        return [str(self._objects.PushObjectRequest.FromString(body).run_id)]

    def bundle(self, body: bytes) -> list[str]:
        try:
            return [str(self._objects.PullObjectRequest.FromString(bundles.Request.read(body).flower).run_id)]
        except Exception:  # noqa: BLE001 - any error: it is refused
            return []

    def handed(self, body: bytes) -> list[str]:
        try:
            return bundles.names_handed(bundles.Request.read(body).payload)
        except ValueError:
            return []  # it is refused

    def shared(self, body: bytes) -> list[str]:
        try:
            return bundles.read_handed_table(bundles.Request.read(body).payload[PLACE:])[1].names
        except ValueError:
            return []  # it is refused

    def question(self, body: bytes) -> list[str]:
        return list(_read_as(self._runtime.PullAppMessagesRequest, body).message_ids) or _nothing(body)

    def replies(self, body: bytes) -> list[str]:
        replies = _read_as(self._fleet.PushMessagesRequest, body).messages_list
        return [reply.metadata.reply_to_message_id for reply in replies]


def _first(subjects: Callable[[bytes], Iterable[str]]) -> Callable[[bytes], Iterable[str]]:
    """Return what a request is about if Flower's own request is at its beginning."""

    def of(body: bytes) -> Iterable[str]:
        try:
            return subjects(bundles.Request.read(body).flower)
        except ValueError:
            return []  # it is refused

    return of


def _read_as(kind: Any, body: bytes) -> Any:
    """Return a request, or an empty one if it is not valid: Flower refuses it."""
    try:
        return kind.FromString(body)
    except Exception:  # noqa: BLE001 - what protobuf raises is not of one class
        return kind()


def _nothing(_body: bytes) -> list[str]:
    return [""]


def _always(_answer: Any) -> bool:
    return True


def _no_task(answer: Any) -> bool:
    return not answer.token


def _no_messages(answer: Any) -> bool:
    return not answer.messages_list


def _not_there_yet(answer: Any) -> bool:
    return bool(answer.object_found and not answer.object_available)


def _no_objects(answer: Any) -> bool:
    return not answer
