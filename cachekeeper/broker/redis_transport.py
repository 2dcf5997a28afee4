"""kombu's transport for Redis, as publishers and workers use it: with our connections, our names and our refusals.

What a worker needs beyond that, to take messages and lose none, is in `cachekeeper.consuming.redis_channel`. The wire
format is kombu's: publishers push to its list.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

import kombu
import redis
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import OutOfMemoryError

from cachekeeper.broker.names import BINDING_DEADLINES, CONTROL_EXCHANGE, UNACKED, UNACKED_INDEX, UNACKED_MUTEX
from cachekeeper.broker.redis_client import Client
from cachekeeper.broker.refusals import refusal
from cachekeeper.connections.redis_connections import CountingConnection, CountingSSLConnection

if TYPE_CHECKING:
    from collections.abc import Callable

_kombu: Any = kombu_redis  # with what its types leave out


def lua_source(package: str, name: str) -> str:
    """The source of a script.

    Args:
        package: whose directory `lua` it is in.
        name: of the script.
    """
    return resources.files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")


_BIND = lua_source("cachekeeper.broker", "bind")
_PUSH = "redis.call('LTRIM', KEYS[1], 0, -1) return redis.call('LPUSH', KEYS[1], ARGV[1])"  # changes nothing first


class Channel(kombu_redis.Channel):
    """kombu's channel, but for its connections, its names, and what a full broker refuses."""

    # Every connection to a Redis broker is one of these: a worker's and a publisher's, blocking and not.
    connection_class = CountingConnection
    connection_class_ssl = CountingSSLConnection

    unacked_key = UNACKED
    unacked_index_key = UNACKED_INDEX
    unacked_mutex_key = UNACKED_MUTEX
    keyprefix_binding_deadlines = BINDING_DEADLINES

    # kombu's; the types that are shipped for it leave it out.
    keyprefix_binding_permanent: str
    _create_client: Callable[[], Any]

    def _get_client(self) -> type[redis.Redis]:
        return Client

    # --- what a worker writes when it starts: else none could start while the broker is full, and empty it

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]  # as above
        except OutOfMemoryError:
            member = self.sep.join([routing_key or "", pattern or "", queue or ""])
            sets = (self.keyprefix_queue % exchange, self.keyprefix_binding_permanent % exchange)
            with self.conn_or_acquire() as client:
                client.eval(_BIND, len(sets), *sets, member)

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        """Push a message.

        A full broker takes the answer to a control command all the same. Else `celery inspect ping` finds no worker,
        and whatever asks so whether workers are well restarts them.
        """
        try:
            super()._put(queue, message, **options)
        except OutOfMemoryError:
            if not queue.endswith(f".reply.{CONTROL_EXCHANGE}.pidbox"):
                raise
            with self.conn_or_acquire() as client:
                client.eval(_PUSH, 1, queue, dumps(message))

    @cached_property
    def _refresh_binding(self) -> Any:
        """Kombu's script for queues that expire, with a first write that removes."""
        removing_first = "redis.call('SREM', KEYS[1], ARGV[1])\n"
        return self._create_client().register_script(removing_first + _kombu.REFRESH_BINDING)


class Transport(kombu_redis.Transport):
    """kombu's transport for Redis, with the channel above."""

    Channel = Channel


class Connection(kombu.Connection):
    """kombu's connection, with the transport above where the URL is that of a Redis."""

    redis_transport: ClassVar[type[kombu_redis.Transport]] = Transport

    def get_transport_cls(self) -> Any:
        """The transport's class."""
        found = super().get_transport_cls()
        return self.redis_transport if found is kombu_redis.Transport else found

    def ensure_connection(self, errback: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        """Connect; try again while the broker is away.

        What it refuses is raised: kombu counts a wrong password of Redis as an outage, and Celery logs each attempt.
        """

        def on_error(error: Exception, interval: float) -> None:
            if refusal(error) is not None:
                raise error
            if errback is not None:
                errback(error, interval)

        try:
            return super().ensure_connection(on_error, *args, **options)
        except OperationalError as error:
            # kombu's own, which a consumer does not take for an error of its connection.
            if error.__cause__ is not None and refusal(error.__cause__) is not None:
                raise error.__cause__ from None
            raise
