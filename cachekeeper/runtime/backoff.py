"""Backoff between attempts, and log lines when an outage begins and when it is over."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from cachekeeper.metrics import logger

if TYPE_CHECKING:
    import threading

    from cachekeeper.errors import Unavailable

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0


def growing(failures: int, *, first: float, longest: float) -> float:
    """Return how many seconds to wait after `failures` failures in a row.

    Args:
        failures: the wait doubles with each failure.
        first: the upper bound of the wait at 0 failures, in seconds.
        longest: the upper bound of every wait, in seconds.

    Returns:
        A random time between half of that bound and all of it, so that processes that stopped together do not all
        retry together.
    """
    return min(first * (1 << min(failures, 10)), longest) * random.uniform(0.5, 1)  # noqa: S311


class Backoff:
    """Waits longer after each failure in a row, while a server is unavailable.

    Args:
        stopping: when set, ends a wait at once.
        waits: text to log before the error, when an outage begins and when it gets a new cause.
        goes_on: text to log when the outage is over.
    """

    def __init__(self, stopping: threading.Event, *, waits: str, goes_on: str) -> None:
        self._stopping = stopping
        self._waits = waits
        self._goes_on = goes_on
        self._failures = 0
        self._began = 0.0
        self._said: set[tuple[type, type]] = set()

    def failed(self, error: Unavailable) -> None:
        """Record a failure with `error`, and wait."""
        if not self._failures:
            self._began = time.monotonic()
        # By class and cause, not by text: the failed step differs from attempt to attempt. The cause of an outage can
        # change, from 'no primary' to 'not authorised', for example.
        why = type(error), type(error.__cause__)
        if why not in self._said:
            self._said.add(why)
            logger.warning("%s: %s", self._waits, error)
        wait = growing(self._failures, first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS)
        self._failures += 1
        self._stopping.wait(wait)

    def succeeded(self) -> None:
        """Record a success, which ends an outage."""
        if self._failures:
            logger.warning("%s, after %.1f s", self._goes_on, time.monotonic() - self._began)
            self._failures = 0
            self._said.clear()
