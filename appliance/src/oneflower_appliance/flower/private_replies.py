"""The privacy of a site, kept by the process of its SuperNode: no reply of a ClientApp leaves as it is.

What leaves is a new reply (`private_releases`), from the message that came and the objects of the reply. What was noted
when the message came is used, and not what the app says that it got. Nothing else of a reply leaves: no name, no order,
no metadata, no text of an error, and no second reply.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.private_releases import Releases
from oneflower_appliance.flower.reply_objects import Records, Reply
from oneflower_appliance.site_policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.privacy_ledger import PrivacyLedger
    from oneflower_appliance.site_privacy import SitePrivacy

log = logging.getLogger("flwr")

_PAUSE = 0.5  # seconds, as in Flower's loop


@dataclass
class _Asked:
    """A message that came, and its objects."""

    message: Any
    contents: dict[str, bytes] = field(default_factory=dict)


class PrivateReplies:
    """The replies of this process's SuperNode, as `privacy` wants them. What they cost is charged to `ledger`."""

    def __init__(self, privacy: SitePrivacy, ledger: PrivacyLedger) -> None:
        self._releases = Releases(privacy, ledger)
        self._ledger = ledger
        self._asked: dict[str, _Asked] = {}
        self._from_apps: set[str] = set()
        self._state: Any = None

    def start(self) -> None:
        """Change the loop. Nothing may have changed it before. Raises `OneflowerError` if the ledger is damaged."""
        self._ledger.total()
        loop = internals.node_loop()
        pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001 - there is no other way in

        @functools.wraps(pull)
        def pulling(*, state: Any, object_store: Any, receive: Any, **arguments: Any) -> int | None:
            self._note_what_apps_store(state)
            asked = _Asked(None)

            def receiving() -> Any:
                found = receive()
                if found is not None:
                    asked.message = found[0]
                    self._releases.check_budget(found[0].metadata)
                return found

            store = _Noting(object_store, asked.contents)
            run_id: int | None = pull(state=state, object_store=store, receive=receiving, **arguments)
            self._asked.clear()  # a SuperNode has one message at a time
            if run_id is not None and asked.message is not None:
                self._asked[asked.message.metadata.message_id] = asked
            return run_id

        @functools.wraps(push)
        def pushing(*, state: Any, object_store: Any, **arguments: Any) -> None:
            try:
                push(state=_Replies(state, object_store, self._private), object_store=object_store, **arguments)
            except _LostReplyError:
                log.warning("The ClientApp ended before it had sent its whole reply.")

        loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001

    def _note_what_apps_store(self, state: Any) -> None:
        """Tell what apps store from the errors that this process makes itself, whose texts may leave."""
        if state is self._state:
            return
        self._state = state
        stock = state.store_message_and_object_tree

        @functools.wraps(stock)
        def storing(message: Any, *args: Any, **arguments: Any) -> Any:
            self._from_apps.add(message.metadata.message_id)
            return stock(message, *args, **arguments)

        state.store_message_and_object_tree = storing

    def _private(self, reply: Any, state: Any, store: Any) -> bool:
        """Replace the reply of an app in the store. Returns False if it is no app's."""
        name = reply.metadata.message_id
        if name not in self._from_apps:
            return False
        self._from_apps.discard(name)
        asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
        gone = [name]
        try:
            contents = {} if reply.has_error() else _all_objects(store, name)
        except _LostReplyError:
            gone.append(reply.metadata.reply_to_message_id)  # as Flower does with a reply that it cannot send
            raise
        finally:
            state.delete_messages(message_ids=gone)
            store.delete(name)
        if asked is None:
            log.warning("A second reply, or a reply to nothing, was dropped: this site lets out one for each message.")
            return True
        with internals.inflatable_objects().no_object_id_recompute():
            try:
                made = self._answer(reply, asked, contents)
            except PolicyError as error:
                log.warning("Run %d: a reply was not let out. %s", asked.message.metadata.run_id, error)
                made = Reply()
                reason = str(error)
            else:
                reason = ""
            made.insert(lambda content: _message(content, reason, asked.message), state, store)
        return True

    def _answer(self, reply: Any, asked: _Asked, contents: dict[str, bytes]) -> Reply:
        if reply.has_error():
            raise PolicyError("The ClientApp failed. This site does not let out why; the log of its node has it.")
        try:
            came = Records(asked.message.metadata.message_id, asked.contents)
            told = Records(reply.metadata.message_id, contents)
            return self._releases.made_of(str(asked.message.metadata.run_id), came, told)
        except PolicyError:
            raise
        except OneflowerError as error:  # the ledger
            raise PolicyError(error.sentence) from error
        except Exception as error:
            log.debug("What was wrong with the reply: %r", error)  # not for the coordinator: it is the app's
            raise PolicyError("This site does not let out the reply: it is not valid.") from error


def _message(content: Any, reason: str, asked: Any) -> Any:
    from flwr.app import Error, Message  # noqa: PLC0415 - slow to import

    if reason:
        return Message(Error(internals.node_states().CLIENT_APP_CRASHED_ERROR.code, reason), reply_to=asked)
    return Message(content, reply_to=asked)


def _all_objects(store: Any, name: str) -> dict[str, bytes]:
    """Return the objects of a reply, when all have come. Raises `_LostReplyError` if one never will."""
    trees = internals.inflatable_objects().iterate_object_tree(store.get_object_tree(name))
    found: dict[str, bytes] = {}
    for tree in trees:
        try:
            while (content := store.get(tree.object_id)) == b"":
                internals.node_loop().time.sleep(_PAUSE)
        except RuntimeError as error:  # of `nodeloop.ReplyObjects`
            raise _LostReplyError from error
        if content is not None:  # without it the reply is not valid
            found[tree.object_id] = content
    return found


class _LostReplyError(Exception):
    """A reply whose objects will not come. `nodeloop` answers for it."""


class _Noting:
    """Flower's object store, for a message that comes: what is in it is noted."""

    def __init__(self, store: Any, contents: dict[str, bytes]) -> None:
        self._store = store
        self._contents = contents

    def preregister(self, run_id: int, tree: Any) -> list[str]:
        """Note what the store has already, and return the names of what it lacks."""
        lacking: list[str] = self._store.preregister(run_id, tree)
        known = {one.object_id for one in internals.inflatable_objects().iterate_object_tree(tree)} - set(lacking)
        self._contents |= {name: content for name in known if (content := self._store.get(name))}
        return lacking

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store an object."""
        self._store.put(object_id, object_content)
        self._contents[object_id] = object_content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Replies:
    """Flower's state, for the loop that waits for replies: it finds them as they may leave."""

    def __init__(self, state: Any, store: Any, replace: Callable[[Any, Any, Any], bool]) -> None:
        self._state = state
        self._store = store
        self._replace = replace

    def get_messages_legacy(self, **arguments: Any) -> list[Any]:
        """Return the replies that may leave."""
        messages = self._state.get_messages_legacy(**arguments)
        found = [one for one in messages if not self._replace(one, self._state, self._store)]
        # What replaces a reply is in the state now.
        return found if len(found) == len(messages) else [*found, *self.get_messages_legacy(**arguments)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
