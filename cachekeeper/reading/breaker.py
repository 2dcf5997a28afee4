"""The breaker: a Redis that failed is not asked for a while."""

from __future__ import annotations

import threading
import time

from redis.exceptions import ResponseError

from cachekeeper.errors import CacheUnavailable
from cachekeeper.metrics import COUNTERS
from cachekeeper.protocol.refusals import is_pool_full, warn_if_refused


class Breaker:
    """Spares every lookup the time limit of a Redis that is known to be away.

    After a failure Redis is not asked for `pause` seconds; then one caller tries while the others go on without it. To
    skip Redis is always right: MongoDB has the truth.

    Args:
        pause: seconds.
        server: how the Redis is called in a warning.
    """

    def __init__(self, pause: float, server: str = "") -> None:
        self.pause = pause
        self._server = server
        self._until = 0.0  # 0: closed
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether to ask Redis now."""
        if not self._until:
            return True
        with self._lock:
            now = time.monotonic()
            if self._until and now < self._until:
                return False
            self._until = now + self.pause  # this caller tries; the next one after another pause, if it fails to report
            return True

    def failed(self, error: Exception) -> None:
        """Redis was asked, and failed with `error`."""
        cause = error.__cause__ if isinstance(error, CacheUnavailable) else error
        if is_pool_full(cause):
            COUNTERS.add("cache_overloaded")  # nobody was asked: that says nothing about Redis
            return
        COUNTERS.add("cache_unavailable")
        warn_if_refused(self._server, error)
        if isinstance(cause, ResponseError):
            # It answered, and at once: out of memory or read-only, it still serves hits, and costs nobody a time limit.
            self.succeeded()
            return
        with self._lock:
            self._until = time.monotonic() + self.pause

    def succeeded(self) -> None:
        """Redis was asked, and answered."""
        if self._until:
            with self._lock:
                self._until = 0.0
