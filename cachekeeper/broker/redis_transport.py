"""kombu's transport for Redis with our connections, our names and our handling of refusals.

Publishers and workers use it. `cachekeeper.consuming.redis_channel` adds what workers need to take messages without
losing any. The wire format is kombu's: publishers push to kombu's list.
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

_kombu: Any = kombu_redis  # has names that its type stubs lack


def lua_source(package: str, name: str) -> str:
    """Return the source of a Lua script.

    Args:
        package: the package whose directory `lua` contains the script.
        name: the script's name.
    """
    return resources.files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")


_BIND = lua_source("cachekeeper.broker", "bind")
# At maxmemory Redis refuses a script only at its first write, if that adds. LTRIM 0 -1 changes nothing and comes first.
_PUSH = "redis.call('LTRIM', KEYS[1], 0, -1) return redis.call('LPUSH', KEYS[1], ARGV[1])"


class Channel(kombu_redis.Channel):
    """kombu's channel with our connections and names. A worker can start, and answer commands, on a full broker."""

    # Every connection to a Redis broker has one of these classes, in workers and publishers, blocking or not.
    connection_class = CountingConnection
    connection_class_ssl = CountingSSLConnection

    unacked_key = UNACKED
    unacked_index_key = UNACKED_INDEX
    unacked_mutex_key = UNACKED_MUTEX
    keyprefix_binding_deadlines = BINDING_DEADLINES

    # kombu has these names; its type stubs lack them.
    keyprefix_binding_permanent: str
    _create_client: Callable[[], Any]

    def _get_client(self) -> type[redis.Redis]:
        return Client

    # --- writes of a worker that starts: they must succeed on a full broker, so that new workers can empty it

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

        A full broker still takes the answer to a control command. Otherwise `celery inspect ping` would find no worker,
        and a health check that uses it would restart the workers.
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
        """Kombu's script for queues that expire, with a removing write put first, as in bind.lua."""
        removing_first = "redis.call('SREM', KEYS[1], ARGV[1])\n"
        return self._create_client().register_script(removing_first + _kombu.REFRESH_BINDING)


class Transport(kombu_redis.Transport):
    """kombu's transport for Redis that uses the channel above."""

    Channel = Channel


class Connection(kombu.Connection):
    """kombu's connection, which uses the transport above if the URL names a Redis server."""

    redis_transport: ClassVar[type[kombu_redis.Transport]] = Transport

    def get_transport_cls(self) -> Any:
        """Return the transport's class."""
        found = super().get_transport_cls()
        return self.redis_transport if found is kombu_redis.Transport else found

    def ensure_connection(self, errback: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        """Connect, and retry while the broker is unavailable.

        Raise an error at once if it is a refusal: kombu would treat a wrong Redis password as an outage and retry, and
        Celery would log each attempt.
        """

        def on_error(error: Exception, interval: float) -> None:
            if refusal(error) is not None:
                raise error
            if errback is not None:
                errback(error, interval)

        try:
            return super().ensure_connection(on_error, *args, **options)
        except OperationalError as error:
            # kombu wraps the refusal in its own class, which a consumer does not handle as a connection error.
            if error.__cause__ is not None and refusal(error.__cause__) is not None:
                raise error.__cause__ from None
            raise
