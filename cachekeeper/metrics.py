"""Counters of this process, and warnings that are logged once instead of once per read."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections import Counter

logger = logging.getLogger("cachekeeper")


class Counters:
    """Named counters, safe across threads. A hit does not change them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Count `amount` more of `name`."""
        with self._lock:
            self._values[name] += amount

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._values[name]

    def unlock(self) -> None:
        """Replace the lock, in a forked child: the thread that held it does not exist there."""
        self._lock = threading.Lock()

    def snapshot(self) -> dict[str, int]:
        """A copy of all counters, by name."""
        with self._lock:
            return dict(self._values)


COUNTERS = Counters()
_said: set[str] = set()
_said_lock = threading.Lock()


def _after_fork_in_child() -> None:
    # The thread that held one of these locks at the fork does not exist here. It would never release the lock.
    global _said_lock  # noqa: PLW0603  # a module's lock is replaced like an object's
    _said_lock = threading.Lock()
    COUNTERS.unlock()


os.register_at_fork(after_in_child=_after_fork_in_child)  # not through `runtime.forks`: that imports this module


def log_once(key: str, message: str, *args: object) -> None:
    """Log the warning `message % args`, but only the first time this process is called with `key`.

    Callers pass no ids and no values, because a log line is kept for a long time.
    """
    with _said_lock:
        if key in _said:
            return
        _said.add(key)
    logger.warning(message, *args)


def where_raised(error: BaseException) -> str:
    """Return the traceback of an error for the log, without the error's own text, which may contain a token."""
    return "".join(traceback.format_tb(error.__traceback__))
