"""The client of a Redis Cluster, made at first use, because making it asks the Cluster for its slots."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from cachekeeper.errors import CacheUnavailable
from cachekeeper.protocol.refusals import warn_if_refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import RedisCluster


class LazyCluster:
    """Connects when the first step needs it, so that a Cluster that is down fails like any Redis that is down.

    One thread connects, and the others wait for its result at the same time. If they waited for a lock, each would
    spend the time limit of a hanging Cluster, one after the other.

    Args:
        connect: makes the client. Raises CacheUnavailable.
        patience: seconds that the other threads wait.
        name: name of the Cluster in warnings.
    """

    def __init__(self, connect: Callable[[], RedisCluster], patience: float, name: str = "a Cluster") -> None:
        self.name = name
        self._connect = connect
        self._patience = patience
        self._lock = threading.Lock()  # never held during I/O
        self._client: RedisCluster | None = None
        self._attempt: Future[RedisCluster] | None = None
        self._closed = False

    def client(self) -> RedisCluster:
        """Return the client.

        Raises:
            CacheUnavailable: no node of the Cluster answered, or none has answered yet.
        """
        if self._client is not None:
            return self._client
        with self._lock:
            if self._client is not None:
                return self._client
            attempt, leads = self._attempt, self._attempt is None
            if attempt is None:
                attempt = self._attempt = Future()
        if leads:
            self._lead(attempt)
        try:
            return attempt.result(self._patience)
        except TimeoutError:
            raise CacheUnavailable("the Redis Cluster has not answered yet: try again") from None

    def close(self) -> None:
        """Close the connections, including any that are being made at this moment."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _lead(self, attempt: Future[RedisCluster]) -> None:
        made: RedisCluster | None = None
        try:
            made = self._connect()
        except BaseException as error:  # after any error, the waiting threads must be told
            warn_if_refused(self.name, error)
            attempt.set_exception(
                error if isinstance(error, CacheUnavailable) else CacheUnavailable("connecting to the Cluster failed")
            )
            raise
        finally:
            with self._lock:
                self._attempt = None
                if not self._closed:
                    self._client = made
        attempt.set_result(made)
        if self._closed:
            made.close()
