"""What a SuperLink's state forgets about SuperNodes that died: messages that they had taken, and half-sent replies."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.linkstate import called

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")


def forget_lost_deliveries(on_change: Callable[[], None]) -> HalfReplies:
    """Keep a round from waiting for a message that a SuperNode or its ClientApp had when it died.

    If a SuperNode is killed while it trains, and is back before its heartbeat is missed, Flower never saw it offline.
    The message that it had taken is neither delivered again nor answered, and the run waits for it until the round's
    timeout. So when a node becomes active, which happens once per process, every message that was delivered to it
    before and not answered is forgotten. The ServerApp gets an error instead, and the round continues.

    Half a reply is forgotten too, because Flower would wait three minutes for the rest. This happens when the node is
    back, reports that its ClientApp died, leaves, misses its heartbeat, or is no longer a member. `on_change` is called
    when something was forgotten that a client may be waiting for. Returns the replies that are being sent.
    """
    sql = internals.link_states()
    sent, replies = sql.MessageInsModel, sql.MessageResModel
    state_class = internals.link_state()
    activate, store = state_class.activate_node, state_class.store_message_and_object_tree
    halves = HalfReplies(on_change)

    @functools.wraps(store)
    def store_message_and_object_tree(self: Any, message: Any, object_tree: Any, session_id: str) -> Any:
        if message.metadata.reply_to_message_id:
            if message.has_error():
                halves.forget(self, message.metadata.src_node_id)
            halves.handed_over[message.metadata.src_node_id] = (session_id, message.metadata.reply_to_message_id)
        return store(self, message, object_tree, session_id)

    @functools.wraps(activate)
    def activate_node(self: Any, node_id: int, heartbeat_interval: float) -> bool:
        halves.forget(self, node_id)
        with self.session() as session:
            answered = sql.select(replies.reply_to_message_id)
            lost = sql.select(sent.message_id).where(
                sent.dst_node_id == sql.uint64_to_int64(node_id),
                sent.delivered_at != "",
                sent.message_id.not_in(answered),
            )
            found = set(session.scalars(lost).all())
        self.delete_messages(found)
        if found:
            log.warning(
                "The unfinished work of %s is lost: it is back (messages: %d).", called(self, node_id), len(found)
            )
            on_change()
        return bool(activate(self, node_id, heartbeat_interval))

    state_class.activate_node = activate_node  # type: ignore[method-assign]
    state_class.store_message_and_object_tree = store_message_and_object_tree  # type: ignore[method-assign]
    for name in ("deactivate_node", "delete_node", "_check_and_tag_offline_nodes"):
        setattr(state_class, name, halves.forgotten_after(getattr(state_class, name)))
    return halves


class HalfReplies:
    """The replies that nodes are sending: one per node at a time, `handed_over` in one of Flower's sessions.

    With the session is the id of the message that is answered. The ServerApp may already have its message, and waits
    for the rest.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.handed_over: dict[int, tuple[str, str]] = {}
        self._on_change = on_change
        self._sql = internals.link_states()
        self._sessions = internals.core_states().ObjectPushSessionModel

    def forget(self, state: Any, node: int) -> None:
        """Forget what a node has sent, if it is half a reply."""
        name, _ = self.handed_over.pop(node, ("", ""))
        if name and self._is_open(state, name):
            state._cleanup_push_session(name, cleanup_messages=True)  # noqa: SLF001 - there is no other way in
            self._on_change()

    def drop(self, state: Any, node: int, message: str) -> None:
        """Delete a message to a node, and its reply with all objects, also if it is half a reply."""
        sql = self._sql
        found = sql.select(sql.MessageResModel.message_id).where(sql.MessageResModel.reply_to_message_id == message)
        with state.session() as session:
            replies = list(session.scalars(found).all())
        if self.handed_over.get(node, ("", ""))[1] == message:
            self.forget(state, node)
        state.delete_messages({message})
        for reply in replies:
            state.object_store.delete(reply)

    def _is_open(self, state: Any, name: str) -> bool:
        in_memory: dict[str, Any] | None = getattr(state, "_object_push_sessions", None)  # see `warm.objectstore`
        if in_memory is not None:
            return name in in_memory
        with state.session() as session:
            return session.get(self._sessions, name) is not None

    def forgotten_after(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of Flower's state that also forgets the half replies of nodes that are away after it."""

        @functools.wraps(original)
        def changing_nodes(state: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(state, *args, **kwargs)
            if self.handed_over:
                for node in self._away(state):
                    self.forget(state, node)
            return result

        return changing_nodes

    def _away(self, state: Any) -> list[int]:
        sql = self._sql
        found = sql.select(sql.NodeModel.node_id).where(
            sql.NodeModel.node_id.in_([sql.uint64_to_int64(node) for node in list(self.handed_over)]),
            sql.NodeModel.status.in_((sql.NodeStatus.OFFLINE, sql.NodeStatus.UNREGISTERED)),
        )
        with state.session() as session:
            return [sql.int64_to_uint64(node) for node in session.scalars(found).all()]
