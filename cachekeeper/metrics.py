"""What happened, counted in process; and warnings that are said once, not once per read."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections import Counter

logger = logging.getLogger("cachekeeper")


class Counters:
    """Named counters, safe across threads. Never touched on a hit."""

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
        """For a forked child: whoever held the lock is not there."""
        self._lock = threading.Lock()

    def snapshot(self) -> dict[str, int]:
        """A copy of all counters, by name."""
        with self._lock:
            return dict(self._values)


COUNTERS = Counters()
_said: set[str] = set()
_said_lock = threading.Lock()


def _after_fork_in_child() -> None:
    # The thread that held one of these at the fork does not exist here, and would never give it back.
    global _said_lock  # noqa: PLW0603  # a module's lock is replaced like an object's
    _said_lock = threading.Lock()
    COUNTERS.unlock()


os.register_at_fork(after_in_child=_after_fork_in_child)  # `runtime.forks` stands above, and logs by this


def log_once(key: str, message: str, *args: object) -> None:
    """Warn with `message % args` the first time this process meets `key`.

    Callers pass no ids and no values: what is logged once stays in a log for long.
    """
    with _said_lock:
        if key in _said:
            return
        _said.add(key)
    logger.warning(message, *args)


def where_raised(error: BaseException) -> str:
    """Where an error was raised, for a log: the traceback without the error's own text, which may quote a token."""
    return "".join(traceback.format_tb(error.__traceback__))
