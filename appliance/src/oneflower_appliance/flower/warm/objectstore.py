"""The object store of a SuperLink: in memory, and in files beyond a limit, instead of in its database.

Flower keeps each object in SQLite, with a row for each child, run and session in which it is expected. An object lives
for seconds, from the ServerApp to the last SuperNode that fetches it, or back, and a run does not survive its
SuperLink. So the store and the sessions of Flower's SuperNodes serve here too. Contents that exceed the limit are
written to files that nobody else can read. If the disk is full too, the message that they belong to is given up: its
sender learns it at once, and the one that waits for it gets an error instead.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.files import free_bytes
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.places import SESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("flwr")

_SHARE, _ENOUGH = 4, 512 * 2**20  # contents may have a quarter of the machine's memory, at most so many bytes
_SMALL = 64 * 1024  # bytes: what is smaller stays in memory, since a file of its own would free little
_LOST = 100  # objects
_UNFINISHED = 600  # seconds without an object, until the rest of a message is given up; Flower waits for 180
_RESERVE = 64 * 2**20  # bytes of the disk that are left free, for the database and the logs on the same disk


def keep_objects_out_of_database(folder: Path, most: int = 0) -> None:
    """Make Flower's factory return this store in this process. What an earlier process left in `folder` is removed.

    At most `most` bytes of contents are in memory; 0 means a quarter of the machine's memory, at most 512 MiB. More
    would not be faster: the kernel keeps a file that was just written in memory as well, where there is room for it.
    """
    most = most or min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE, _ENOUGH)
    shutil.rmtree(folder, ignore_errors=True)

    def store(self: Any) -> Any:
        with self._store_lock:
            if self.store_instance is None:
                self.store_instance = object_store(folder, most)
            return self.store_instance

    internals.object_stores().store = store  # type: ignore[method-assign]
    _keep_sessions_in_memory()


def _keep_sessions_in_memory() -> None:
    """Give the state of a SuperLink the methods for sessions of the state of a SuperNode."""
    state, memory = internals.link_state(), type(internals.node_state())
    begin = state.__init__

    @functools.wraps(begin)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        begin(self, *args, **kwargs)
        self._object_push_sessions, self._object_push_session_by_root = {}, {}
        self._lock_object_push_sessions = threading.RLock()

    state.__init__ = __init__  # type: ignore[method-assign]
    internals.node_core_states().OBJECT_PUSH_SESSION_TTL_SECONDS = _UNFINISHED
    for name in SESSIONS:
        setattr(state, name, getattr(memory, name))
    state.store_object = _giving_up(state.store_object)  # type: ignore[method-assign]
    state.delete_messages = _with_objects(state.delete_messages)  # type: ignore[method-assign]
    state.finish_task = _forgetting(state.finish_task)  # type: ignore[method-assign]


def _with_objects(delete_messages: Callable[..., None]) -> Callable[..., None]:
    """Return Flower's method that deletes messages and their replies; it deletes the objects of the messages too.

    A SuperNode has them deleted when it has fetched its message. If it died before that, the model would stay here
    until the end of the run. Flower deletes a message that its own node, the SuperLink, takes before that is read.
    """
    here = internals.constants().SUPERLINK_NODE_ID
    sql = internals.link_states()
    sent = sql.MessageInsModel

    @functools.wraps(delete_messages)
    def deleting(self: Any, message_ins_ids: set[str]) -> None:
        held = {name for name in message_ins_ids if name in self.object_store}
        unfetched: list[str] = []
        if held:
            chosen = sql.select(sent.message_id).where(sent.message_id.in_(held), sent.dst_node_id != here)
            with self.session() as session:
                unfetched = list(session.scalars(chosen).all())
        delete_messages(self, message_ins_ids)
        for name in unfetched:
            self.object_store.delete(name)

    return deleting


def _forgetting(finish_task: Callable[..., bool]) -> Callable[..., bool]:
    """Return Flower's method that notes the end of a ServerApp; nothing is kept for its next message then."""

    @functools.wraps(finish_task)
    def finishing(self: Any, *args: Any, **kwargs: Any) -> bool:
        self.object_store.forget()
        return finish_task(self, *args, **kwargs)

    return finishing


def _giving_up(store_object: Callable[..., bool]) -> Callable[..., bool]:
    """Return Flower's method that stores an object of a session; if there is no room for it, the session is over.

    It also takes an object that nobody needs any more.
    """

    @functools.wraps(store_object)
    def storing(self: Any, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        with self._lock_object_push_sessions:
            if _needless(self, run_id, session_id, object_id):
                return True
            refused = self.object_store.refused
            stored = store_object(self, run_id, session_id, object_id, object_content)
            if self.object_store.refused != refused:
                self._cleanup_push_session(session_id, cleanup_messages=True)
            return stored or _needless(self, run_id, session_id, object_id)

    return storing


def _needless(state: Any, run_id: int, session_id: str, object_id: str) -> bool:
    """Whether an object that a session expects is needed by nobody. Then it is no longer expected.

    A SuperNode that has it from the message before confirms its message without it. When all nodes have done so, Flower
    deletes the message and what only this message needs, perhaps before the ServerApp has sent it all.
    """
    session = state._object_push_sessions.get(session_id)  # noqa: SLF001 - it is made here
    if session is None or session.run_id != run_id or object_id not in session.pending_object_ids:
        return False
    if object_id in state.object_store:
        return False
    session.pending_object_ids.remove(object_id)
    if not session.pending_object_ids:
        state._cleanup_push_session(session_id, cleanup_messages=False)  # noqa: SLF001 - there is no other way
    return True


def object_store(folder: Path, most: int) -> Any:
    """Return a store that holds at most `most` bytes of large contents in memory, and the rest in files in `folder`."""
    return type("ObjectStore", (_WithFiles, type(internals.object_store())), {})(folder, most)


class _WithFiles:
    """What is different from Flower's store: the content of an entry may be in a file.

    `held` is the number of bytes in memory. `refused` counts contents for which there was no room; `reason` says why.
    `lost` has the reasons for the last of them, by object, for a ServerApp that waits for one.

    A model goes to the nodes twice: to be evaluated, and then to be trained. So what nodes have fetched is kept when it
    is deleted, in case its run sends it again; only the last message, only in memory, and only until other large
    contents come or its ServerApp ends. So it needs no more memory than there was before.
    """

    store: dict[str, Any]
    lock_store: threading.RLock

    def __init__(self, folder: Path, most: int) -> None:
        super().__init__()
        self._folder, self._most = folder, most
        self.held = self.refused = 0
        self.reason = ""
        self.lost: dict[str, str] = {}
        self._deleting = False
        self._fetched: set[str] = set()  # objects that a node has fetched
        self._again: dict[str, tuple[bytes, set[int]]] = {}  # contents that are kept, and their runs

    @property
    def _flower(self) -> Any:
        return super()

    def fetched(self, names: Iterable[str]) -> None:
        """Note that a node has fetched these objects."""
        with self.lock_store:
            self._fetched.update(names)

    def preregister(self, run_id: int, object_tree: Any) -> list[str]:
        """Expect the objects of a message, and return the names of those that are not there."""
        with self.lock_store:
            missing: list[str] = self._flower.preregister(run_id, object_tree)
            for name in missing:
                content, runs = self._again.get(name, (b"", set()))
                if run_id in runs:
                    del self._again[name]
                    entry = self.store[name]
                    entry.content, entry.is_available = content, True
            return [name for name in missing if not self.store[name].is_available]

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store an object. Raises `OSError` if there is neither memory nor disk for it."""
        with self.lock_store:
            entry = self.store.get(object_id)
            new = entry is not None and not entry.is_available
            if new and len(object_content) >= _SMALL:
                self.forget()
        self._flower.put(object_id, object_content)  # without the lock, because it computes the hash
        with self.lock_store:
            entry = self.store.get(object_id)
            self.lost.pop(object_id, None)
            if new and entry is not None and entry.content is object_content:
                self.held += len(object_content)
                if self.held > self._most and len(object_content) >= _SMALL:
                    self._write(object_id, entry)

    def get(self, object_id: str) -> bytes | None:
        """Return an object; it is empty if it is not there yet."""
        with self.lock_store:
            content: bytes | Path | None = self._flower.get(object_id)
            return content.read_bytes() if isinstance(content, Path) else content

    def delete(self, object_id: str) -> None:
        """Delete an object, and those below it that no other has."""
        with self.lock_store:
            entry = self.store.get(object_id)
            outermost, self._deleting = not self._deleting, True  # Flower calls this again for what is below it
            try:
                if outermost and object_id in self._fetched and entry is not None and not entry.ref_count:
                    self.forget()
                self._flower.delete(object_id)
            finally:
                self._deleting = not outermost
            if entry is not None and object_id not in self.store:
                self._leave(object_id, entry)

    def _leave(self, object_id: str, entry: Any) -> None:
        """Keep the content of an object that was deleted, or free it."""
        fetched = object_id in self._fetched
        self._fetched.discard(object_id)
        if fetched and isinstance(entry.content, bytes):
            self._again[object_id] = entry.content, entry.runs
        else:
            self._free(entry)

    def forget(self) -> None:
        """Forget what was kept."""
        with self.lock_store:
            self.held -= sum(len(content) for content, _ in self._again.values())
            self._again.clear()

    def delete_objects_in_run(self, run_id: int) -> None:
        """Delete the objects of a run that has ended."""
        with self.lock_store:
            self._flower.delete_objects_in_run(run_id)
            self.forget()

    def clear(self) -> None:
        """Delete all objects."""
        with self.lock_store:
            entries = list(self.store.values())
            self._flower.clear()
            for entry in entries:
                self._free(entry)
            self.forget()
            self._fetched.clear()

    def _write(self, object_id: str, entry: Any) -> None:
        file = self._folder / object_id
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._check_room(len(entry.content))
            file.write_bytes(entry.content)
        except OSError as error:
            file.unlink(missing_ok=True)
            self._free(entry)
            entry.content, entry.is_available = b"", False
            self.refused += 1
            self.reason = (
                f"There is no room for it on the SuperLink's machine: {self._most >> 20} MiB of memory are full, and "
                f"{self._folder} cannot be written ({error.strerror}). Raise FL_OBJECT_MEMORY, or free some disk "
                "space there."
            )
            self.lost = dict([*self.lost.items(), (object_id, self.reason)][-_LOST:])
            log.error("A message is given up. %s", self.reason)  # noqa: TRY400 - a person reads it
            raise
        self._free(entry)
        entry.content = file

    def _check_room(self, size: int) -> None:
        if free_bytes(self._folder) < size + _RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _free(self, entry: Any) -> None:
        if isinstance(entry.content, Path):
            entry.content.unlink(missing_ok=True)
        else:
            self.held -= len(entry.content)
