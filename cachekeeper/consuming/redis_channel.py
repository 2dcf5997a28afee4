"""A worker's channel to a Redis broker: takes messages from the broker without losing any.

kombu takes a message off its list with one command, and records it as unacknowledged with a second command. The message
is lost if the worker is killed between the two. It is also lost at `maxmemory`, where Redis accepts the first command
and refuses the second. Here one script does both steps. It removes before it adds, because Redis refuses a script only
at its first write. If a full broker gave its workers no messages, they could never make room in it.

The wire format is kombu's: the record of a message is the `[message, exchange, routing key]` that kombu keeps. But an
item that is not a message is recorded as it was pushed.
"""

from __future__ import annotations

import enum
import hashlib
import json
import uuid
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.connection import ConnectionPool, PooledConnection
from kombu.utils.json import loads
from redis.exceptions import NoScriptError, OutOfMemoryError

from cachekeeper.broker import redis_transport
from cachekeeper.broker.names import PAUSE
from cachekeeper.broker.redis_transport import lua_source
from cachekeeper.consuming import poison_guard
from cachekeeper.consuming.unacked import QoS
from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.runtime.backoff import growing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_LONGEST_NAME = 250

TAKE = lua_source("cachekeeper.consuming", "take")


class _Step(enum.Enum):
    """The command that a channel sends next, or has sent and that is still in flight."""

    TAKE = enum.auto()
    """Take a message."""
    WAIT = enum.auto()
    """Wait until the list is no longer empty."""
    PAUSE = enum.auto()
    """Wait for a fixed time. A full broker refuses WAIT."""


class Channel(redis_transport.Channel):
    """A channel that takes, records and puts back messages in our way.

    kombu's event loop keeps one blocking command in flight on a separate connection, and calls it BRPOP. Here the
    channel sends one of three commands instead. TAKE takes a message. WAIT follows if there is none, and PAUSE if Redis
    refuses to wait.
    """

    QoS = QoS

    # kombu has these names; its type stubs lack them.
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    client: Any
    qos: Any
    _queue_cycle: Any
    _flush_brpop_reauth: Callable[[], None]

    def __init__(self, connection: Any, **options: Any) -> None:
        self._step = _Step.TAKE
        self._pauses = 0  # in a row, since Redis last gave a message or accepted a wait
        self._asked: tuple[Sequence[str], str] = ((), "")  # the lists and the delivery tag of the TAKE in flight
        self._is_loaded = False  # whether the server knows the script by its hash
        self._sha = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()  # as the server computes it
        self._unanswered: set[str] = set()  # queues whose messages are not acknowledged
        super().__init__(connection, **options)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **options: Any) -> Any:  # noqa: FBT001  # kombu's
        """Begin to consume from a queue."""
        (self._unanswered.add if no_ack else self._unanswered.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:  # noqa: FBT001, FBT002  # kombu's
        """Return a message of a queue, or None."""
        message = super().basic_get(queue, no_ack, **options)
        if no_ack and message is not None:
            self.qos.ack(message.delivery_tag)
        return message

    # --- the event loop

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002  # kombu's
        """Send the next command. Called when no command is in flight and this channel may take another message."""
        queues: Sequence[str] = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        if self._step is _Step.WAIT and len(queues) > 1:
            self._pause()  # no command waits for several lists without changing them
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        connection.send_command(*self._command(queues))

    def _command(self, queues: Sequence[str]) -> Sequence[Any]:
        if self._step is _Step.WAIT:
            # This only waits: it moves an item to its own place, and TAKE takes it. Taking messages by BLMOVE, to
            # another list, would not lose any either. But a full broker refuses BLMOVE, and would hand out nothing.
            return "BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", self.brpop_timeout
        if self._step is _Step.PAUSE:
            seconds = growing(self._pauses, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
            return "BRPOP", PAUSE, seconds
        which = ("EVALSHA", self._sha) if self._is_loaded else ("EVAL", TAKE)
        arguments, tag = self._take(queues)
        self._asked = queues, tag
        return *which, *arguments

    def _brpop_read(self, **_options: Any) -> bool:
        """Read the answer of Redis. Called when an answer has arrived."""
        try:
            answer = self._answer()
            if self._step is _Step.PAUSE:
                self._step = _Step.TAKE
            elif self._step is _Step.WAIT:
                self._pauses = 0
                self._step = _Step.WAIT if answer is None else _Step.TAKE  # an item may be empty
            elif answer:
                self._pauses = 0
                queue, message = self._taken(answer, *self._asked)
                self._queue_cycle.rotate(queue)
                self.connection._deliver(message, queue)  # noqa: SLF001  # as kombu's channel does
                return True
            else:
                self._step = _Step.WAIT
            raise Empty
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _answer(self) -> Any:
        """Return the answer of Redis to the command in flight.

        Raises:
            Empty: another command must be sent.
            redis.ResponseError: Redis refused the command; the message is still on its list.
            redis.ConnectionError: the connection is lost.
        """
        connection = self.client.connection
        try:
            answer = self.client.parse_response(connection, "EVAL")
        except self.connection_errors:
            connection.disconnect()
            raise
        except NoScriptError:  # another server has this address now, or this one lost its scripts
            self._is_loaded = False
            raise Empty from None
        except OutOfMemoryError:
            if self._step is not _Step.WAIT:
                raise
            self._pause()
            raise Empty from None
        self._is_loaded = self._is_loaded or self._step is _Step.TAKE
        return answer

    def _pause(self) -> None:
        self._step = _Step.PAUSE
        self._pauses += 1

    # --- messages

    def _take(self, queues: Sequence[str]) -> tuple[Sequence[str], str]:
        """Return the keys and arguments for take.lua, and a new delivery tag, which is unique to this delivery."""
        tag = str(uuid.uuid4())
        keys = (self.unacked_key, self.unacked_index_key, *queues)
        tails = ("" if queue in self._unanswered else _tail(queue) for queue in queues)
        return (str(len(keys)), *keys, tag, *tails), tag

    def _taken(self, answer: Sequence[Any], queues: Sequence[str], tag: str) -> tuple[str, dict[str, Any]]:
        """Return the queue of a message that was taken, and the message.

        Args:
            answer: the answer of take.lua.
            queues: the queues that take.lua was given.
            tag: the delivery tag that take.lua was given.
        """
        number, item = answer
        queue = queues[number - 1]
        if queue in self._unanswered:
            return queue, loads(item)
        message: dict[str, Any] = loads(poison_guard.sound(item))
        message["properties"]["delivery_tag"] = tag
        return queue, message

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002  # kombu's
        arguments, tag = self._take([queue])
        with self.conn_or_acquire() as client:
            answer = client.eval(TAKE, *arguments)
        if not answer:
            raise Empty
        return self._taken(answer, [queue], tag)[1]

    def _deliver_fanout_message(self, message: object, exchange: str) -> object:
        """Deliver a message that was published to all workers (`celery inspect`), unless kombu cannot read it."""
        if poison_guard.is_control(message, exchange):
            return super()._deliver_fanout_message(message, exchange)  # type: ignore[misc]  # as above
        COUNTERS.add("control_message_unreadable")
        logger.error("ignored a control message that is not a kombu message")
        return True


class Transport(redis_transport.Transport):
    """The transport that uses the channel above."""

    Channel = Channel


class Connection(redis_transport.Connection):
    """A worker's connection to the broker."""

    redis_transport = Transport

    def Pool(self, limit: int | None = None, **options: Any) -> Any:  # noqa: N802  # kombu's
        """Return a pool of connections of this class. `celery inspect` uses one."""
        return _Pool(self, limit, **options)


class _Pooled(PooledConnection, Connection):  # type: ignore[misc]  # in the types that are shipped, not in kombu
    """A connection of a pool. kombu's own pool would make kombu's connections."""


class _Pool(ConnectionPool):
    connection: Any

    def new(self) -> _Pooled:
        return _Pooled(self, **dict(self.connection._info(resolve=False)))  # noqa: SLF001  # as kombu's pool does


def _tail(queue: str) -> str:
    """Return the part of a message's record that follows the item: kombu's exchange and routing key.

    Raises:
        ValueError: the queue's name is one that restore.lua could not find in the record.
    """
    if not queue or len(queue) > _LONGEST_NAME or json.dumps(queue, ensure_ascii=False) != f'"{queue}"':
        raise ValueError(f"the name of a queue must be 1 to {_LONGEST_NAME} printable characters, no quotes: {queue!r}")
    return f',"","{queue}"]'
