"""A pool of Redis connections, whose callers wait for a free one, in turn and within a time limit."""

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
    """Inside, wait for a connection only until `deadline`, in seconds of `time.monotonic`."""
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
        self.connection: Any = None  # of a counting class


class WaitingPool(ConnectionPool):
    """A pool whose callers wait for a free connection, in the order in which they came.

    A connection with an unread reply is closed before it goes back. A caller loses a connection if an exception comes
    between taking it and giving it back. A lost connection no longer counts as in use once Python has removed it.

    Args:
        connection_class: one of redis-py's classes; the pool uses its counting class.
        max_connections: the largest number of connections at the same time; None: no limit.
        wait_seconds: how long to wait for a free connection.
        options: the options of each connection.
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
        """Start without connections: at first, and in a forked child, where a parent's thread may hold the lock."""
        self._lock = threading.RLock()
        self._available_connections = []
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiters: deque[_Waiter] = deque()
        self._looked = self._progress = time.monotonic()
        self._replies = 0
        self.pid = os.getpid()  # last, because other threads read it without a lock

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]  # only methods overridden here set it
        """The connections in use. redis-py's own methods read them under this name."""
        return set(self._made).difference(self._available_connections)

    def get_connection(self, command_name: object = None, *keys: object, **options: object) -> Any:  # noqa: ARG002
        """Take a connection for one caller, which gives it back with `release`.

        Raises:
            PoolFull: no connection was free in time.
            redis.TimeoutError: all connections have waited for the server as long as one reply may take.
            redis.RedisError: the connection could not be opened.
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
        """Make a new connection of this pool."""
        connection = self.connection_class(**self.connection_kwargs)
        self._made.add(connection)
        return connection

    def release(self, connection: Any) -> None:
        """Give a connection to the next waiting caller, or back to the pool. Only the thread that took it can do this.

        Otherwise two callers could share a socket:

        caller 1: Pipeline.reset releases it · a signal raises before the pipeline forgets it
        caller 2: takes it · sends a command
        caller 1: the block of the pipeline ends, and releases it again
        caller 3: takes it, and shares a socket with caller 2

        A release by another thread on purpose (a subscriber's, a finaliser's) looks the same, so it is ignored, and the
        connection is lost: redis-py forgets it, Python removes and closes it, and the pool has room for a new one.
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
        """Whether the server has closed the connection, or unread bytes are on it."""
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
                if waiter.connection is not None:  # it came after the time limit
                    waiter.connection.lessee = None
                    self._hand_on(waiter.connection)
            raise

    def _free(self) -> Any:
        """A free connection, a new one if the limit allows it, or None. The caller holds the lock."""
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
            # Wait in short steps: when Python removes a lost connection, nothing wakes this caller.
            waiter.given.wait(max(min(ends - now, _LOOK_AGAIN_SECONDS), 0))
            with self._lock:
                found = waiter.connection or self._free()
                if found is not None:
                    self._forget(waiter)
                    return found
                hangs = self._hangs(began)
            if now >= ends:
                raise PoolFull(
                    f"all {self.max_connections} connections to Redis were in use for {now - began:.1f} s: "
                    "retry later, or raise max_connections"
                )
            if hangs:
                raise RedisTimeoutError("no connection to Redis got a reply in time")

    def _hangs(self, began: float) -> bool:
        """Whether all connections have waited for the server as long as one reply may take. The caller holds the lock.

        If so, all waiting callers raise the same error now. A pool that a long pipeline or an idle caller fills does
        not count: that is not an outage.
        """
        now = time.monotonic()  # the clock of `began`, when the caller began to wait
        if now - self._looked >= _LOOK_AGAIN_SECONDS / 2:  # one look serves all waiting callers
            replies = sum(each.replies for each in self._made)
            if replies != self._replies or any(each.is_open and not each.awaits_reply for each in self._made):
                self._progress = now
            self._looked, self._replies = now, replies
        if now - max(self._progress, began) < self._stall_seconds:
            return False
        if answered := any(each.has_unread for each in self._made):  # its caller gets no CPU time, or has lost it
            self._progress = now
        # A closed connection proves nothing: its caller has just failed, or keeps it forever.
        return not answered and any(each.awaits_reply for each in self._made)

    def _hand_on(self, connection: Any) -> None:
        """Give a connection to the caller that has waited longest, or to the pool. The caller holds the lock."""
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
    """The pools of a client: one pool, or one for each node of a Cluster."""
    nodes = getattr(client, "get_nodes", None)
    if nodes is None:
        return [client.connection_pool]
    return [cast("ConnectionPool", node.redis_connection.connection_pool) for node in nodes() if node.redis_connection]
