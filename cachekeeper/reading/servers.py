"""The connections of a process to its servers, and the readers, caps and time limits that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachekeeper.connections.mongodb import DatabaseReads, connect_mongodb
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.model.views import Server
from cachekeeper.protocol import Store
from cachekeeper.reading.blocklist import EvictionWatch
from cachekeeper.reading.core import Limits
from cachekeeper.reading.sync import SyncReader

if TYPE_CHECKING:
    from pymongo.database import Database
    from redis import Redis, RedisCluster

    from cachekeeper.protocol import LazyCluster
    from cachekeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class Servers:
    """The objects that talk to servers; one set per keeper and process.

    Attributes:
        database: the reads of MongoDB.
        readers: by server; both are the same reader if both servers are one Redis.
        eviction: by server: tells whether that Redis may evict keys.
    """

    database: DatabaseReads
    readers: dict[Server, SyncReader]
    eviction: dict[Server, EvictionWatch]


def connected(
    settings: Settings,
    cache: Redis | RedisCluster | None,
    security: Redis | RedisCluster | None,
    database: Database[Any] | None,
) -> Servers:
    """Make the clients. Each connects at its first use.

    Args:
        settings: URLs and limits.
        cache: a client of the caller's own; None: one is made from the settings.
        security: the same.
        database: the same.
    """
    timeout = settings.redis_timeout_seconds
    reads = DatabaseReads(
        connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds) if database is None else database,
        timeout=settings.load_timeout_seconds,
        concurrency=settings.load_concurrency,
        read_concern=settings.read_concern,
    )
    limits = Limits(
        lookup=settings.lookup_timeout_seconds,
        load=settings.load_timeout_seconds + 2 * timeout,
        read=settings.load_timeout_seconds,
        value_bytes=settings.value_limit_bytes,
        lease_ms=settings.lease_ms,
        negative_ms=settings.negative_ms,
        marker_ms=settings.marker_ms,
    )

    def reader(client: Redis | RedisCluster | LazyCluster) -> SyncReader:
        return SyncReader(Store(client), reads, limits, pause=timeout)

    # A lookup that has waited for a Redis connection for all of this time can still ask MongoDB.
    wait = limits.lookup - limits.load
    first = reader(connect_redis(settings.redis_url, timeout, wait) if cache is None else cache)
    same = security is cache if security is not None else settings.security_url == settings.redis_url
    second = (
        first if same else reader(connect_redis(settings.security_url, timeout, wait) if security is None else security)
    )
    readers = {Server.CACHE: first, Server.SECURITY: second}
    return Servers(reads, readers, {server: EvictionWatch(found.store) for server, found in readers.items()})
