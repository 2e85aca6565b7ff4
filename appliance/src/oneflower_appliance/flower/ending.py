"""Why a process of Flower's ends, as the exit status that its agent reads.

Flower ends with status 1 for whatever is wrong, and says in its log what it is. Where it ends because of an exception,
that exception is still there: raised, or as the cause of what is raised, or given to the log as an object, or raised in
a thread. It is looked at here by its type, so that no text has to be read.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

import httpx

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNKNOWN = 1
_RECENT = 30.0  # seconds for which something that was only logged may be why the process ends
_LOGS = ("flwr", "uvicorn.error")
REFUSALS = (2001, 2004)  # codes of Flower's errors: a key must be registered; this node cannot be activated
_NO_STATE = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO})
_NO_DATABASE = frozenset({8, 10, 13, 14})  # READONLY, IOERR, FULL, CANTOPEN of SQLite, whose module takes 1 MB


def ending_of(error: BaseException) -> Ending | None:
    """Return what an exception, or one that led to it, means for the process. None where it has no name."""
    return next((ending for one in _chain(error) if (ending := _ending(one)) is not None), None)


def _ending(error: BaseException) -> Ending | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Ending.UNTRUSTED
    if isinstance(error, httpx.HTTPStatusError) and _refuses(error.response):
        return Ending.REFUSED
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DATABASE:  # only SQLite's errors have one
        return Ending.NO_STATE
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Ending.ADDRESS_TAKEN
    return Ending.NO_STATE if isinstance(error, OSError) and error.errno in _NO_STATE else None


def _refuses(response: httpx.Response) -> bool:
    """Whether a SuperLink answers that it does not take what this SuperNode signed, or does not know its key."""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return True
    try:
        return response.json()["code"] in REFUSALS
    except (ValueError, KeyError, TypeError):
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    met: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in met:
        met.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


class Watch(logging.Handler):
    """Notes the exceptions that Flower logs and does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._noted: tuple[Ending, float] | None = None

    def start(self) -> None:
        """Begin to note them."""
        for name in _LOGS:
            logging.getLogger(name).addHandler(self)
        stock = threading.excepthook

        def note(arguments: threading.ExceptHookArgs, /) -> None:
            if arguments.exc_value is not None:
                self._note(arguments.exc_value)
            stock(arguments)

        threading.excepthook = note

    def emit(self, record: logging.LogRecord) -> None:
        """Note the exception of a log record."""
        error = record.msg if isinstance(record.msg, BaseException) else record.exc_info and record.exc_info[1]
        if isinstance(error, BaseException):
            self._note(error)

    def _note(self, error: BaseException) -> None:
        if ending := ending_of(error):
            self._noted = (ending, time.monotonic())

    @property
    def recent(self) -> Ending | None:
        """What was noted last, if that was not long ago."""
        if self._noted is None or time.monotonic() - self._noted[1] > _RECENT:
            return None
        return self._noted[0]


def run_flower(flower: Callable[[], None]) -> None:
    """Run `flower`. End this process with the `Ending` that fits if it ends for a reason that has one.

    An exception without one ends it with status 1.
    """
    watch = Watch()
    watch.start()
    ending: int | None
    try:
        flower()
        ending = watch.recent
    except OneflowerError:
        raise
    except BaseException as error:
        ending = ending_of(error) or watch.recent or (_UNKNOWN if isinstance(error, Exception) else None)
        if ending is None:
            raise
        traceback.print_exc()
    if ending is not None:
        # Threads of Flower's that nobody ends would keep this process, and Flower's own way out says 1 after a while.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending)
