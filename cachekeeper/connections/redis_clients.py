"""Clients of Redis and MongoDB with the time limits that an outage needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import ConnectionPool, Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.cluster import ClusterPipeline
from redis.retry import Retry

from cachekeeper.connections.redis_pool import WaitingPool, pools_of
from cachekeeper.errors import InputError
from cachekeeper.protocol import LazyCluster, cache_errors
from cachekeeper.values.argument_checks import check_given
from cachekeeper.values.urls.checking import checked
from cachekeeper.values.urls.redis_url import redis_url

WAIT_SECONDS = 2.0


def connect_redis(url: str, timeout: float, wait: float = WAIT_SECONDS) -> Redis | LazyCluster:
    """A client for `url`, or what makes one of a Cluster; both connect at first use.

    Args:
        url: as in the settings; `redis+cluster://` for a Cluster.
        timeout: seconds for connecting, and for each answer.
        wait: seconds for a free connection, where the URL has `max_connections`.

    Raises:
        SettingsError: the URL cannot be used.
    """
    url = checked("REDIS_URL", redis_url, url)
    if not _is_cluster(url):
        return _plain_client(url, timeout, wait)

    def connect() -> RedisCluster:
        with cache_errors("connecting to the Cluster"):
            return _cluster_client(url, timeout, wait)

    parts = urlsplit(url)
    return LazyCluster(connect, 2 * timeout, f"{parts.hostname}:{parts.port or 6379}")


def make_redis_client(
    url: str, *, timeout_seconds: float = 0.5, wait_seconds: float = WAIT_SECONDS
) -> Redis | RedisCluster:
    """A redis-py client that is safe for a `Keeper`: no caller gets another caller's reply, and none is sent twice.

    It answers bytes, speaks RESP2 without maintenance notifications, and closes a connection on which a reply was not
    read, as where an exception came between a command and its reply. Close it when it is no more needed.

    Args:
        url: `redis://`, `rediss://` or `unix://`; with `+cluster` behind the scheme for a Cluster. It is checked as the
            setting `REDIS_URL` is, and may have the same options.
        timeout_seconds: for connecting, and for each answer.
        wait_seconds: for a free connection, where the URL has `max_connections`.

    Raises:
        redis.RedisError, redis.exceptions.RedisClusterException: the Cluster cannot be reached. The client of a single
            server connects at first use.
        InputError: a time limit is not a positive number of seconds. Or the URL cannot be used, or has an option that
            is unknown or that this client sets: time limits, the protocol, decoding, retries. The message quotes
            nothing of the URL but the option's name.
    """
    try:
        url = redis_url(url)
    except ValueError as error:
        raise InputError("url", str(error)) from None
    _check_seconds("timeout_seconds", timeout_seconds)
    _check_seconds("wait_seconds", wait_seconds)
    make = _cluster_client if _is_cluster(url) else _plain_client
    return make(url, timeout_seconds, wait_seconds)


def _check_seconds(field: str, value: object) -> None:
    """Refuse what redis-py takes, and then hangs with, or fails with at the first command."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(field, f"must be a positive number of seconds, got {value!r}")


def _is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")


def _options(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # Never sent twice. The first copy of an acquire may arrive late, behind the second one and behind an event:
        #   acquire n (on a dying connection) · acquire n again · load · event: drop n · acquire n (the first) · fill n
        # would bring back what the event has made old. The pool itself notices a connection that a restart has closed.
        "retry": Retry(NoBackoff(), 0),
    }


def _plain_client(url: str, timeout: float, wait: float) -> Redis:
    pool = WaitingPool.from_url(url, wait_seconds=wait, **_options(timeout))
    client = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True  # the pool is this client's alone
    return client


def _cluster_client(url: str, timeout: float, wait: float) -> RedisCluster:
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(scheme=parts.scheme.removesuffix("+cluster")))
    # Its nodes' pools get no options but those that redis-py knows.
    pool = partial(WaitingPool, wait_seconds=wait)
    return RedisCluster.from_url(plain, protocol=2, connection_pool_class=pool, **_options(timeout))


def check_redis_client(client: Redis | RedisCluster, field: str) -> None:
    """Refuse a client with which the protocol, or an answer, can be wrong.

    Args:
        client: somebody's own.
        field: the parameter that it was given as.

    Raises:
        TypeError: it is no synchronous client, answers text, sends twice, or shares a connection on which a reply may
            be unread.
    """
    check_given(
        client,
        field,
        Redis,
        RedisCluster,
        refused=(Pipeline, ClusterPipeline),
        cure="a synchronous client, as cachekeeper.make_redis_client(url) makes it",
    )
    wanted = f"{field}: a Redis client for a Keeper"
    cure = "make it with cachekeeper.make_redis_client(url)"
    if client.get_encoder().decode_responses:
        raise TypeError(f"{wanted} must answer bytes: make it without decode_responses")
    if _sends_twice(client):
        raise TypeError(
            f"{wanted} must not retry, since a command that arrives late and twice would undo an invalidation: make it "
            "with retry=Retry(NoBackoff(), 0)"
        )
    if getattr(client, "connection", None) is not None:
        raise TypeError(f"{wanted} must not have a single connection, where a reply may be another caller's: {cure}")
    if any(_skips_the_look(pool) for pool in pools_of(client)):
        raise TypeError(
            f"{wanted} must have neither maintenance notifications (on by default where redis-py speaks RESP3) nor a "
            "client-side cache: with them redis-py does not look for unread replies, and a reply can reach another "
            f"caller. {cure[0].upper()}{cure[1:]}, or with protocol=2"
        )


def _sends_twice(client: Redis | RedisCluster) -> bool:
    """Whether a client may send a command again whose answer it did not get (see `connect_redis`)."""
    if isinstance(client, RedisCluster):
        return client.retry.get_retries() != 0
    options = client.connection_pool.connection_kwargs
    retry = options.get("retry")
    if retry is None:  # then a connection makes its own, where it is told for which errors
        return bool(options.get("retry_on_timeout") or options.get("retry_on_error"))
    return bool(retry.get_retries() != 0)


def _skips_the_look(pool: ConnectionPool) -> bool:
    """Whether a pool hands out connections without a look for unread replies."""
    if isinstance(pool, WaitingPool):
        return False
    enabled: Callable[[], bool] | None = getattr(pool, "maint_notifications_enabled", None)  # since redis-py 7.1
    return getattr(pool, "cache", None) is not None or (enabled is not None and bool(enabled()))


def disconnect(client: Redis | RedisCluster | LazyCluster) -> None:
    """Close a client's idle connections. One in use under another thread would fail it with errors of any kind."""
    if isinstance(client, RedisCluster | LazyCluster):
        client.close()
    else:
        client.connection_pool.disconnect(inuse_connections=False)
