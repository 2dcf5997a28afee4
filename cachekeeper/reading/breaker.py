"""The circuit breaker: after a failure, Redis is not asked for a while."""

from __future__ import annotations

import threading
import time

from redis.exceptions import ResponseError

from cachekeeper.errors import CacheUnavailable
from cachekeeper.metrics import COUNTERS
from cachekeeper.protocol.refusals import is_pool_full, warn_if_refused


class Breaker:
    """Skips a Redis that is known to be down, so that lookups do not wait for its time limit.

    After a failure Redis is not asked for `pause` seconds. Then one caller tries it while the others go on without it.
    Skipping Redis is always correct: MongoDB has the truth.

    Args:
        pause: seconds without asking, after a failure.
        server: name of the Redis in warnings.
    """

    def __init__(self, pause: float, server: str = "") -> None:
        self.pause = pause
        self._server = server
        self._until = 0.0  # 0: closed
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Return whether to ask Redis now."""
        if not self._until:
            return True
        with self._lock:
            now = time.monotonic()
            if self._until and now < self._until:
                return False
            self._until = now + self.pause  # this caller tries; if it never reports, another tries after this pause
            return True

    def failed(self, error: Exception) -> None:
        """Note that Redis was asked, and failed with `error`."""
        cause = error.__cause__ if isinstance(error, CacheUnavailable) else error
        if is_pool_full(cause):
            COUNTERS.add("cache_overloaded")  # Redis was not asked, so this says nothing about it
            return
        COUNTERS.add("cache_unavailable")
        warn_if_refused(self._server, error)
        if isinstance(cause, ResponseError):
            # Redis answered at once. Out of memory or read-only, it still serves hits, and no caller has to wait.
            self.succeeded()
            return
        with self._lock:
            self._until = time.monotonic() + self.pause

    def succeeded(self) -> None:
        """Note that Redis was asked, and answered."""
        if self._until:
            with self._lock:
                self._until = 0.0
