"""Connections to Redis that know whether a reply is still unread, so that no caller gets another caller's reply.

An exception that has nothing to do with Redis can come after a command is sent and before its reply is read: Ctrl-C,
Celery's soft time limit, or an exception from a signal handler of the program:

    caller 1: send GET a · KeyboardInterrupt · the connection goes back to the pool
    caller 2: takes it · send GET b · reads the value of a

redis-py looks for unread bytes when it takes a connection from the pool. But it does not look with maintenance
notifications on, the default since redis-py 7.1, and it cannot see a reply that is still on its way. So a connection
here counts the commands it sent and the replies it read, and is closed if the two numbers differ. It speaks RESP2, in
which a server sends only what was asked for. Other libraries can use these classes directly:
`connection_class=CountingConnection`.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Any, cast

from redis import Connection, SSLConnection, UnixDomainSocketConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.connection import AbstractConnection

_PLAIN = frozenset({"GET", "SET", "DEL", "EVAL", "EVALSHA", "HMGET", "MGET", "PING", "BRPOP", "EXEC", "LPUSH"})
"""The most frequent commands. They change nothing for the next caller on the same connection."""

_SUBSCRIBE = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
_CHANGES = frozenset({"AUTH", "CLIENT", "HELLO", "MONITOR", "MULTI", "READONLY", "READWRITE", "RESET", "SELECT"})


class _CountsReplies:
    """Mixin for redis-py's parsers: counts the replies that were read, errors of the server included."""

    replies = 0

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = super().read_response(*args, **kwargs)  # type: ignore[misc]  # the parser has it
        self.replies += 1
        return reply


def _counting_parser(parser: type[Any]) -> type[Any]:
    if parser not in _parsers:
        _parsers[parser] = type(f"Counting{parser.__name__}", (_CountsReplies, parser), {})
    return _parsers[parser]


_parsers: dict[type[Any], type[Any]] = {}


class _Packed(list[Any]):
    """Commands as bytes, with their number, and whether one of them changes the state of its connection."""

    commands = 0
    changes = False


def _word(name: Any) -> str:
    """The first word of a command in capitals. redis-py takes text or bytes, in any case, with or without arguments."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text.partition(" ")[0].upper()


if TYPE_CHECKING:
    _Base = AbstractConnection
else:
    _Base = object


class _CountsCommands(_Base):
    """Mixin for redis-py's connections: knows whether a reply is still unread.

    Commands are counted before they are sent, and replies after they were read. So an interruption in between can only
    close a good connection, but never keep a bad one.
    """

    lessee: int | None = None  # the thread that took it from the pool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sent = 0
        self._changed = False
        self._shakes_hands = False
        # redis-py's pools add options for maintenance notifications, which need another protocol.
        kwargs = {name: value for name, value in kwargs.items() if "maint_notifications" not in name}
        super().__init__(*args, **{**kwargs, "protocol": 2})

    @property
    def is_open(self) -> bool:
        """Whether it has a socket."""
        return self._sock is not None

    @property
    def owes_replies(self) -> bool:
        """Whether a reply on this connection was not read, or a command has changed the connection's state.

        A subscription may receive more messages. After MULTI, SELECT and the like, the next caller would get other
        replies than it expects.
        """
        return self._sock is not None and (self._changed or self._sent != self._parser.replies)

    @property
    def replies(self) -> int:
        """The number of replies that were read, on all sockets that this connection had."""
        return int(self._parser.replies)

    @property
    def awaits_reply(self) -> bool:
        """Whether its caller waits for a reply, or for the handshake. A subscriber does not: it waits for messages."""
        return self._shakes_hands or (self.owes_replies and not self._changed)

    @property
    def has_unread(self) -> bool:
        """Whether the server has sent bytes that were not read yet. It reads nothing, so any thread may ask."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(cast("Any", self._sock) or -1, selectors.EVENT_READ)
                return bool(selector.select(0))
        except (OSError, ValueError):  # no socket, its caller closes it now, or no file descriptor is left
            return False

    def set_parser(self, parser_class: type[Any]) -> None:
        super().set_parser(_counting_parser(parser_class))  # type: ignore[no-untyped-call]  # redis-py has no types

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        # A subscriber calls this after it sent a command and before it reads. `_changed` excludes it.
        if self.owes_replies and not self._changed:
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py has no types
        if self._sock is not None:
            return
        # The handshake counts as one command: if it is interrupted, the connection may be in another database.
        self._sent, self._changed = self._parser.replies + 1, False
        self._shakes_hands = True  # its SELECT is for every caller
        try:
            super().connect_check_health(*args, **kwargs)
        finally:
            self._shakes_hands = False
        self._sent -= 1

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]  # redis-py has no types
        # kombu's subscriber takes its connection from the pool itself: only its command shows that it subscribes.
        if args[0] not in _PLAIN:
            word = _word(args[0])
            self._changed = self._changed or word in _SUBSCRIBE or (word in _CHANGES and not self._shakes_hands)

    def pack_commands(self, commands: Iterable[Any]) -> _Packed:
        commands = list(commands)
        packed = _Packed(super().pack_commands(commands))  # type: ignore[no-untyped-call]  # redis-py has no types
        packed.commands = len(commands)
        words = {_word(command[0]) for command in commands if command[0] not in _PLAIN}
        if any("EXEC" in command[:1] for command in commands):
            words.discard("MULTI")
        packed.changes = not words.isdisjoint(_CHANGES | _SUBSCRIBE)
        return packed

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's
        # Connect and check the health before counting, because connecting starts a new count.
        if self._sock is None:
            self.connect_check_health(check_health=False)
        if check_health and self.health_check_interval:
            self.check_health()  # type: ignore[no-untyped-call]  # redis-py has no types
        if type(command) is _Packed:
            self._sent += command.commands
            self._changed = self._changed or command.changes
        else:
            self._sent += 1
        super().send_packed_command(command, check_health=False)  # type: ignore[no-untyped-call]  # redis-py has no types


class CountingConnection(_CountsCommands, Connection):
    """A connection over TCP."""


class CountingSSLConnection(_CountsCommands, SSLConnection):
    """A connection over TLS."""


class CountingUnixConnection(_CountsCommands, UnixDomainSocketConnection):
    """A connection over a Unix socket."""


def counting_class(connection_class: type[Any]) -> type[Any]:
    """Return the counting class for one of redis-py's own connection classes; any other class unchanged."""
    return _COUNTING.get(connection_class, connection_class)


_COUNTING: dict[type[Any], type[Any]] = {
    Connection: CountingConnection,
    SSLConnection: CountingSSLConnection,
    UnixDomainSocketConnection: CountingUnixConnection,
}
