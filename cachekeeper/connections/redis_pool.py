"""A pool of connections to Redis whose callers wait for a free one, in turn and within a time limit."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from redis import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cachekeeper.connections.redis_connections import counting_class

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNLIMITED = 2**31
_LOOK_AGAIN_SECONDS = 0.05

_deadline: ContextVar[float] = ContextVar("cachekeeper_redis_deadline", default=float("inf"))


class PoolFull(MaxConnectionsError):
    """All connections that `max_connections` allows were in use for too long."""


@contextmanager
def waiting_until(deadline: float) -> Iterator[None]:
    """Wait for a connection no longer than until `deadline`, in seconds of `time.monotonic`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class _Waiter:
    """A thread that waits for a connection."""

    __slots__ = ("connection", "given", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.given = threading.Event()
        self.connection: Any = None  # of a class that counts


class WaitingPool(ConnectionPool):
    """A pool whose callers wait for a free connection, in the order in which they came.

    A connection is closed before it goes back with a reply that nobody read. One that a caller lost, since an exception
    came between taking it and giving it back, does not count as in use once Python has removed it.

    Args:
        connection_class: redis-py's own; the counting one of its kind is made.
        max_connections: how many connections there may be at once; None: any number.
        wait_seconds: how long to wait for one of them.
        options: of each connection.
    """

    _available_connections: list[Any]

    def __init__(
        self,
        connection_class: type[Any] = Connection,
        max_connections: int | None = None,
        *,
        wait_seconds: float = 2.0,
        **options: Any,
    ) -> None:
        self._wait_seconds = wait_seconds
        limit = options.get("socket_timeout")
        self._stall_seconds = float("inf") if limit is None else float(limit)
        super().__init__(
            connection_class=counting_class(connection_class),
            max_connections=max_connections or _UNLIMITED,
            **{**options, "protocol": 2},
        )

    def reset(self) -> None:
        """Begin without connections: at first, and in a forked child, where the parent's threads hold its locks."""
        self._lock = threading.RLock()
        self._available_connections = []
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiters: deque[_Waiter] = deque()
        self._looked = self._progress = time.monotonic()
        self._replies = 0
        self.pid = os.getpid()  # last: other threads look at it without a lock

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]  # only what is overridden here sets it
        """What redis-py's own methods call so."""
        return set(self._made).difference(self._available_connections)

    def get_connection(self, command_name: object = None, *keys: object, **options: object) -> Any:  # noqa: ARG002
        """A connection for one caller, who gives it back by `release`.

        Raises:
            PoolFull: none was free in time.
            redis.TimeoutError: all of them waited for the server for as long as one reply may take, and got none.
            redis.RedisError: it could not connect.
        """
        self._checkpid()
        connection = self._take()
        try:
            if connection.is_open and self._is_dead(connection):
                connection.disconnect()
            if not connection.is_open:
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def make_connection(self) -> Any:
        """A new connection of this pool."""
        connection = self.connection_class(**self.connection_kwargs)
        self._made.add(connection)
        return connection

    def release(self, connection: Any) -> None:
        """Give a connection back: to whoever waits, else to the pool. Only the thread that took it can.

        caller 1: Pipeline.reset releases it · a signal raises before the pipeline forgets it
        caller 2: takes it · sends a command
        caller 1: the block of the pipeline ends, and releases it again
        caller 3: takes it, and shares a socket with caller 2

        A release that is meant by another thread (a subscriber's, a finaliser's) looks the same, and loses the
        connection: redis-py forgets it next, Python removes and closes it, and its place is free.
        """
        self._checkpid()
        if connection.pid != self.pid:
            connection.disconnect()  # the parent's, in a child
            return
        with self._lock:
            if connection.lessee == get_ident():
                if connection.owes_replies:
                    connection.disconnect()
                connection.lessee = None
                self._hand_on(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's
        """Close the connections: all of them, or those that are not in use."""
        self._checkpid()
        with self._lock:
            for connection in list(self._made) if inuse_connections else self._available_connections:
                connection.disconnect()

    @staticmethod
    def _is_dead(connection: Any) -> bool:
        """Whether the server has closed it, or has sent what nobody asked for."""
        try:
            return bool(connection.owes_replies or connection.can_read())
        except (RedisConnectionError, RedisTimeoutError, OSError):
            return True

    def _take(self) -> Any:
        with self._lock:
            connection = self._free()
            if connection is not None:
                return connection
            waiter = _Waiter()
            self._waiters.append(waiter)
        try:
            return self._wait(waiter)
        except BaseException:
            with self._lock:
                self._forget(waiter)
                if waiter.connection is not None:  # it came too late
                    waiter.connection.lessee = None
                    self._hand_on(waiter.connection)
            raise

    def _free(self) -> Any:
        """A connection that nobody uses, a new one where there may be more, or None. Under the lock."""
        if self._available_connections:
            connection = self._available_connections.pop()
        elif len(self._made) < self.max_connections:
            connection = self.make_connection()
        else:
            return None
        connection.lessee = get_ident()
        return connection

    def _wait(self, waiter: _Waiter) -> Any:
        began = time.monotonic()
        ends = min(began + self._wait_seconds, _deadline.get())
        while True:
            now = time.monotonic()
            # Not for longer at once: a connection that was lost in use comes back without a word.
            waiter.given.wait(max(min(ends - now, _LOOK_AGAIN_SECONDS), 0))
            with self._lock:
                found = waiter.connection or self._free()
                if found is not None:
                    self._forget(waiter)
                    return found
                hangs = self._hangs(began)
            if now >= ends:
                raise PoolFull(f"all {self.max_connections} connections to Redis were in use for {now - began:.1f} s")
            if hangs:
                raise RedisTimeoutError("no connection to Redis got an answer")

    def _hangs(self, began: float) -> bool:
        """Whether all connections have waited for the server as long as one reply may take. Under the lock.

        Then the callers raise the same error now. A long pipeline or an idle caller fills a pool, too: no outage.
        """
        now = time.monotonic()  # as `began`, when the caller began to wait
        if now - self._looked >= _LOOK_AGAIN_SECONDS / 2:  # once for all who wait
            replies = sum(each.replies for each in self._made)
            if replies != self._replies or any(each.is_open and not each.awaits_reply for each in self._made):
                self._progress = now
            self._looked, self._replies = now, replies
        if now - max(self._progress, began) < self._stall_seconds:
            return False
        if answered := any(each.has_unread for each in self._made):  # but its caller gets no CPU, or has lost it
            self._progress = now
        # One that is closed says nothing: its caller has just failed, or keeps it for ever.
        return not answered and any(each.awaits_reply for each in self._made)

    def _hand_on(self, connection: Any) -> None:
        """To the one who has waited longest, so that nobody overtakes. Under the lock."""
        if self._waiters:
            waiter = self._waiters.popleft()
            connection.lessee = waiter.thread
            waiter.connection = connection
            waiter.given.set()
        else:
            self._available_connections.append(connection)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)


def pools_of(client: Any) -> list[ConnectionPool]:
    """The pools of a client: one, or one for each node of a Cluster."""
    nodes = getattr(client, "get_nodes", None)
    if nodes is None:
        return [client.connection_pool]
    return [cast("ConnectionPool", node.redis_connection.connection_pool) for node in nodes() if node.redis_connection]
