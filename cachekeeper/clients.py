"""Clients of Redis and MongoDB with the time limits that an outage needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper.errors import SettingsError
from cachekeeper.lean import LEAN_CODEC_OPTIONS
from cachekeeper.store import LateCluster, cache_errors
from cachekeeper.urls import mongodb_url, redis_url

if TYPE_CHECKING:
    from pymongo.database import Database


def connect_redis(url: str, timeout: float) -> Redis | LateCluster:
    """A client for `url`, or what makes one of a Cluster; both connect at first use.

    Args:
        url: as in the settings; `redis+cluster://` for a Cluster.
        timeout: seconds for connecting, and for each answer.

    Raises:
        SettingsError: the URL cannot be used.
    """
    url = _checked("REDIS_URL", redis_url, url)
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # Never sent twice. The first copy of an acquire may arrive late, behind the second one and behind an event:
        #   acquire n (on a dying connection) · acquire n again · load · event: drop n · acquire n (the first) · fill n
        # would bring back what the event has made old. The pool itself notices a connection that a restart has closed.
        "retry": Retry(NoBackoff(), 0),
    }
    parts = urlsplit(url)
    if parts.scheme.endswith("+cluster"):
        plain = urlunsplit(parts._replace(scheme=parts.scheme.removesuffix("+cluster")))

        def connect() -> RedisCluster:
            with cache_errors("connecting to the Cluster"):
                return RedisCluster.from_url(plain, **options)

        return LateCluster(connect, 2 * timeout)
    return Redis.from_url(url, **options)


def sends_twice(client: Redis | RedisCluster) -> bool:
    """Whether a client may send a command again whose answer it did not get (see `connect_redis`)."""
    if isinstance(client, RedisCluster):
        return client.retry.get_retries() != 0
    options = client.connection_pool.connection_kwargs
    retry = options.get("retry")
    if retry is None:  # then a connection makes its own, where it is told for which errors
        return bool(options.get("retry_on_timeout") or options.get("retry_on_error"))
    return bool(retry.get_retries() != 0)


def connect_mongodb(url: str, timeout: float) -> Database[Any]:
    """The database that `url` names; its client connects at first use.

    Args:
        url: as in the settings, with the database in its path.
        timeout: seconds for connecting. Each operation has a limit of its own.

    Raises:
        SettingsError: the URL cannot be used.
    """
    url = _checked("MONGODB_URL", mongodb_url, url)
    limit = int(timeout * 1000)
    try:
        client: MongoClient[Any] = MongoClient(
            url,
            connect=False,
            connectTimeoutMS=limit,
            serverSelectionTimeoutMS=limit,
            appname="cachekeeper",
        )
        return client.get_default_database(codec_options=LEAN_CODEC_OPTIONS)
    except (PyMongoError, ValueError, TypeError) as error:
        raise SettingsError(f"CACHEKEEPER_MONGODB_URL: cannot be used ({type(error).__name__})") from None


def _checked(name: str, check: Callable[[str], str], url: str) -> str:
    try:
        return check(url)
    except ValueError as error:
        raise SettingsError(f"CACHEKEEPER_{name}: {error}") from None


def disconnect(client: Redis | RedisCluster | LateCluster) -> None:
    """Close a client's idle connections. One in use under another thread would fail it with errors of any kind."""
    if isinstance(client, RedisCluster | LateCluster):
        client.close()
    else:
        client.connection_pool.disconnect(inuse_connections=False)
