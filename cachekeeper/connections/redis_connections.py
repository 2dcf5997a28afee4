"""Connections to Redis on which no caller gets another caller's reply, and the pool that keeps them.

Between the moment a command is sent and the moment its reply is read, an exception may be raised that has nothing to do
with Redis: Ctrl-C, Celery's soft time limit, a signal handler of the program:

    caller 1: send GET a · KeyboardInterrupt · the connection goes back to the pool
    caller 2: takes it · send GET b · reads the value of a

redis-py looks for unread bytes when it takes a connection from the pool, but not with maintenance notifications on, as
they are by default since redis-py 7.1, and it cannot see a reply that is still on its way. So a connection here counts
the commands it sent and the replies it read, and is closed where the two differ. It speaks RESP2, in which a server
sends nothing that was not asked for. A connection class of another library takes them as they are:
`connection_class=CountingConnection`.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from redis import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis.connection import AbstractConnection

_PLAIN = frozenset({"GET", "SET", "DEL", "EVAL", "EVALSHA", "HMGET", "MGET", "PING", "BRPOP", "EXEC", "LPUSH"})
"""The most frequent commands, which change nothing for the one who takes their connection next."""

_SUBSCRIBE = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
_CHANGES = frozenset({"AUTH", "CLIENT", "HELLO", "MONITOR", "MULTI", "READONLY", "READWRITE", "RESET", "SELECT"})
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


class _CountsReplies:
    """Mixed into redis-py's parsers: counts the replies that were read, errors of the server included."""

    replies = 0

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = super().read_response(*args, **kwargs)  # type: ignore[misc]  # of the parser it is mixed into
        self.replies += 1
        return reply


def _counting_parser(parser: type[Any]) -> type[Any]:
    if parser not in _parsers:
        _parsers[parser] = type(f"Counting{parser.__name__}", (_CountsReplies, parser), {})
    return _parsers[parser]


_parsers: dict[type[Any], type[Any]] = {}


class _Packed(list[Any]):
    """Commands as bytes, how many they are, and whether one of them changes its connection."""

    commands = 0
    changes = False


def _word(name: Any) -> str:
    """The first word of a command's name, which redis-py takes as text or bytes, in any case, with arguments or not."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text.partition(" ")[0].upper()


if TYPE_CHECKING:
    _Base = AbstractConnection
else:
    _Base = object


class _CountsCommands(_Base):
    """Mixed into redis-py's connections: knows whether a reply is owed to nobody any more.

    Each count changes on the side on which a mistake closes a connection that is well: that of commands before they are
    sent, that of replies after they were read.
    """

    lessee: int | None = None  # the thread that took it from the pool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sent = 0
        self._changed = False
        self._shakes_hands = False
        # A pool of redis-py adds what its notifications need; they are another protocol's.
        kwargs = {name: value for name, value in kwargs.items() if "maint_notifications" not in name}
        super().__init__(*args, **{**kwargs, "protocol": 2})

    @property
    def is_open(self) -> bool:
        """Whether it has a socket."""
        return self._sock is not None

    @property
    def owes_replies(self) -> bool:
        """Whether something was sent on this connection whose reply was not read, or a command has changed it.

        A subscription may send more; after MULTI, SELECT and the like, the next caller would get other replies.
        """
        return self._sock is not None and (self._changed or self._sent != self._parser.replies)

    @property
    def replies(self) -> int:
        """How many were read, on all sockets that it had."""
        return int(self._parser.replies)

    @property
    def awaits_reply(self) -> bool:
        """Whether its caller waits for the server: for a reply or to be connected. A subscriber waits for messages."""
        return self._shakes_hands or (self.owes_replies and not self._changed)

    @property
    def has_unread(self) -> bool:
        """Whether the server has sent what its caller has not read yet. Other threads may ask: it reads nothing."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(cast("Any", self._sock) or -1, selectors.EVENT_READ)
                return bool(selector.select(0))
        except (OSError, ValueError):  # it has no socket, its caller closes it, or no file descriptor is left
            return False

    def set_parser(self, parser_class: type[Any]) -> None:
        super().set_parser(_counting_parser(parser_class))  # type: ignore[no-untyped-call]  # redis-py types it not

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        # A subscriber calls this between what it sends and what it reads.
        if self.owes_replies and not self._changed:
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py types it not
        if self._sock is not None:
            return
        # The handshake counts as one: a connection on which it was interrupted may be in another database.
        self._sent, self._changed = self._parser.replies + 1, False
        self._shakes_hands = True  # which selects the database, for every caller
        try:
            super().connect_check_health(*args, **kwargs)
        finally:
            self._shakes_hands = False
        self._sent -= 1

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]  # redis-py types it not
        # kombu's subscriber takes its connection from the pool itself, so nothing else tells that it is one.
        if args[0] not in _PLAIN:
            word = _word(args[0])
            self._changed = self._changed or word in _SUBSCRIBE or (word in _CHANGES and not self._shakes_hands)

    def pack_commands(self, commands: Iterable[Any]) -> _Packed:
        commands = list(commands)
        packed = _Packed(super().pack_commands(commands))  # type: ignore[no-untyped-call]  # redis-py types it not
        packed.commands = len(commands)
        words = {_word(command[0]) for command in commands if command[0] not in _PLAIN}
        if any("EXEC" in command[:1] for command in commands):
            words.discard("MULTI")
        packed.changes = not words.isdisjoint(_CHANGES | _SUBSCRIBE)
        return packed

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's
        # Both come before the count: to connect begins a new one.
        if self._sock is None:
            self.connect_check_health(check_health=False)
        if check_health and self.health_check_interval:
            self.check_health()  # type: ignore[no-untyped-call]  # redis-py types it not
        if type(command) is _Packed:
            self._sent += command.commands
            self._changed = self._changed or command.changes
        else:
            self._sent += 1
        super().send_packed_command(command, check_health=False)  # type: ignore[no-untyped-call]  # redis-py types it not


class CountingConnection(_CountsCommands, Connection):
    """A connection over TCP."""


class CountingSSLConnection(_CountsCommands, SSLConnection):
    """A connection over TLS."""


class CountingUnixConnection(_CountsCommands, UnixDomainSocketConnection):
    """A connection over a Unix socket."""


_COUNTING: dict[type[Any], type[Any]] = {
    Connection: CountingConnection,
    SSLConnection: CountingSSLConnection,
    UnixDomainSocketConnection: CountingUnixConnection,
}


class _Waiter:
    """A thread that waits for a connection."""

    __slots__ = ("connection", "given", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.given = threading.Event()
        self.connection: _CountsCommands | None = None


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
            connection_class=_COUNTING.get(connection_class, connection_class),
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
