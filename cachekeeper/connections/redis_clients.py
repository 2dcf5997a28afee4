"""Redis clients with the time limits that an outage needs, and the check of a caller's own client."""

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
    """Make a client for `url`. For a Cluster, a `LazyCluster` makes the client. Both connect at first use.

    Args:
        url: a URL as in the settings; `redis+cluster://` for a Cluster.
        timeout: seconds for connecting, and for each reply.
        wait: seconds to wait for a free connection, if the URL has `max_connections`.

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
    """Make a redis-py client that is safe for a `Keeper`: callers get only their own replies; no command is sent twice.

    It returns bytes and speaks RESP2 without maintenance notifications. It closes a connection on which a reply was not
    read, for example after an exception between a command and its reply. Close the client when you no longer need it.

    Args:
        url: `redis://`, `rediss://` or `unix://`; with `+cluster` after the scheme for a Cluster. It is checked like
            the setting `CACHEKEEPER_REDIS_URL`, and may have the same options.
        timeout_seconds: for connecting, and for each reply.
        wait_seconds: for waiting for a free connection if the URL has `max_connections`.

    Raises:
        redis.RedisError, redis.exceptions.RedisClusterException: the Cluster cannot be reached. The client of a single
            server connects at first use.
        InputError: a time limit is not a positive number of seconds. Or the URL cannot be used. Or it has an option
            that is unknown, or that this client sets itself: time limits, the protocol, decoding, retries. The message
            quotes only the option's name from the URL.
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
    """Refuse a time limit with which redis-py hangs, or fails at the first command."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(field, "must be a positive number of seconds")


def _is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")


def _options(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # Never send a command twice. Else the first copy of an acquire may arrive after the second copy and an event:
        #   acquire n (on a dying connection) · acquire n again · load · event: drop n · acquire n (the first) · fill n
        # This would bring back a stale value. The pool itself notices a connection that a restart has closed.
        "retry": Retry(NoBackoff(), 0),
    }


def _plain_client(url: str, timeout: float, wait: float) -> Redis:
    pool = WaitingPool.from_url(url, wait_seconds=wait, **_options(timeout))
    client = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True  # no other client uses this pool
    return client


def _cluster_client(url: str, timeout: float, wait: float) -> RedisCluster:
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(scheme=parts.scheme.removesuffix("+cluster")))
    # redis-py passes only the options that it knows to the pools of the nodes.
    pool = partial(WaitingPool, wait_seconds=wait)
    return RedisCluster.from_url(plain, protocol=2, connection_pool_class=pool, **_options(timeout))


def check_redis_client(client: Redis | RedisCluster, field: str) -> None:
    """Check that a client cannot break the protocol or return a wrong reply.

    Args:
        client: the caller's own client.
        field: the name of the parameter.

    Raises:
        TypeError: the client is not synchronous, returns text, may send a command twice, or shares a connection that
            may have an unread reply.
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
        raise TypeError(f"{wanted} must return bytes: make it with decode_responses=False")
    if _sends_twice(client):
        raise TypeError(
            f"{wanted} must not retry, because a repeated command can arrive late and undo an invalidation: make it "
            "with retry=Retry(NoBackoff(), 0)"
        )
    if getattr(client, "connection", None) is not None:
        raise TypeError(f"{wanted} must not use a single connection, where callers can get others' replies: {cure}")
    if any(_skips_the_look(pool) for pool in pools_of(client)):
        raise TypeError(
            f"{wanted} must not use maintenance notifications (redis-py's default with RESP3) or a client-side cache: "
            "with them, redis-py does not check for unread replies, and a caller can get another caller's reply. "
            f"{cure[0].upper()}{cure[1:]}, or with protocol=2"
        )


def _sends_twice(client: Redis | RedisCluster) -> bool:
    """Whether a client may send a command again if it got no reply (see `_options`)."""
    if isinstance(client, RedisCluster):
        return client.retry.get_retries() != 0
    options = client.connection_pool.connection_kwargs
    retry = options.get("retry")
    if retry is None:  # each connection makes its own retries if one of these options is set
        return bool(options.get("retry_on_timeout") or options.get("retry_on_error"))
    return bool(retry.get_retries() != 0)


def _skips_the_look(pool: ConnectionPool) -> bool:
    """Whether a pool hands out connections without checking for unread replies."""
    if isinstance(pool, WaitingPool):
        return False
    enabled: Callable[[], bool] | None = getattr(pool, "maint_notifications_enabled", None)  # since redis-py 7.1
    return getattr(pool, "cache", None) is not None or (enabled is not None and bool(enabled()))


def disconnect(client: Redis | RedisCluster | LazyCluster) -> None:
    """Close a client's idle connections. Closing one that another thread uses could raise any error in that thread."""
    if isinstance(client, RedisCluster | LazyCluster):
        client.close()
    else:
        client.connection_pool.disconnect(inuse_connections=False)
