"""Connections to Redis that know whether a reply is still owed, so that no caller gets another caller's.

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

import selectors
from typing import TYPE_CHECKING, Any, cast

from redis import Connection, SSLConnection, UnixDomainSocketConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.connection import AbstractConnection

_PLAIN = frozenset({"GET", "SET", "DEL", "EVAL", "EVALSHA", "HMGET", "MGET", "PING", "BRPOP", "EXEC", "LPUSH"})
"""The most frequent commands, which change nothing for the one who takes their connection next."""

_SUBSCRIBE = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
_CHANGES = frozenset({"AUTH", "CLIENT", "HELLO", "MONITOR", "MULTI", "READONLY", "READWRITE", "RESET", "SELECT"})


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


def counting_class(connection_class: type[Any]) -> type[Any]:
    """The counting one of its kind for a class of redis-py's own; any other class as it is."""
    return _COUNTING.get(connection_class, connection_class)


_COUNTING: dict[type[Any], type[Any]] = {
    Connection: CountingConnection,
    SSLConnection: CountingSSLConnection,
    UnixDomainSocketConnection: CountingUnixConnection,
}
