"""Growing pauses between attempts, and what is logged when an outage begins and when it is over."""

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
    """How many seconds to wait after so many failures in a row.

    Args:
        failures: the wait doubles with each.
        first: the longest wait after none, in seconds.
        longest: the longest of all, in seconds.

    Returns:
        Between half of that wait and all of it: processes that stopped together do not come back together.
    """
    return min(first * (1 << min(failures, 10)), longest) * random.uniform(0.5, 1)  # noqa: S311


class Backoff:
    """Waits longer from failure to failure, while a server is away.

    Args:
        stopping: ends a wait at once.
        waits: what to log before the error when an outage begins, or goes on for a cause that it did not have before.
        goes_on: what to log when it is over.
    """

    def __init__(self, stopping: threading.Event, *, waits: str, goes_on: str) -> None:
        self._stopping = stopping
        self._waits = waits
        self._goes_on = goes_on
        self._failures = 0
        self._began = 0.0
        self._said: set[tuple[type, type]] = set()

    def failed(self, error: Unavailable) -> None:
        """It failed with `error`: wait."""
        if not self._failures:
            self._began = time.monotonic()
        # By class and cause: what it was doing differs from try to try. 'No primary' may end as 'not authorised'.
        why = type(error), type(error.__cause__)
        if why not in self._said:
            self._said.add(why)
            logger.warning("%s: %s", self._waits, error)
        wait = growing(self._failures, first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS)
        self._failures += 1
        self._stopping.wait(wait)

    def succeeded(self) -> None:
        """It works, or works again."""
        if self._failures:
            logger.warning("%s, after %.1f s", self._goes_on, time.monotonic() - self._began)
            self._failures = 0
            self._said.clear()
