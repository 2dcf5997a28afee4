"""A process that only writes, and that Redis refuses, says once for each server and cause what is wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper import Block, Keeper
from cachekeeper.applying.batch import apply
from cachekeeper.devservers.ports import free_port
from cachekeeper.errors import CacheUnavailable, PersistedNotCached
from lookups import BLOCKED, block_token, save_session
from testkit.limits import NO_REDIS, PATIENT
from testkit.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import RedisServer


def _save(keeper: Keeper) -> None:
    with pytest.raises(PersistedNotCached):
        save_session("secret-session", {"cart": [1]}, keeper=keeper)


def _block(keeper: Keeper) -> None:
    with pytest.raises(PersistedNotCached):
        block_token("secret-token", None, keeper=keeper)


def _apply(keeper: Keeper) -> None:
    """As a worker does."""
    (one, two) = apply(keeper, [[Block(BLOCKED, each, None)] for each in ("secret-one", "secret-two")])
    assert isinstance(one.error, CacheUnavailable)
    assert isinstance(two.error, CacheUnavailable)


WRITERS: list[Callable[[Keeper], None]] = [_save, _block, _apply]


def _becomes_a_replica(client: Any) -> None:
    client.replicaof("127.0.0.1", str(free_port()))


def _wants_replicas(client: Any) -> None:
    client.config_set("min-replicas-to-write", "1")


def _takes_no_scripts(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")


def _takes_no_writes(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-@write")


def _is_full(client: Any) -> None:
    client.config_set("maxmemory", "1")


CAUSES: dict[Callable[[Any], None], str] = {
    _becomes_a_replica: "it refuses commands (READONLY); name the primary in the URL, not a replica",
    _wants_replicas: "it refuses commands (NOREPLICAS); see its configuration and its log",
    _takes_no_scripts: "its user has no permission for",
    _takes_no_writes: "its user has no permission for",
    _is_full: "it refuses commands (OOM); raise maxmemory; only a Redis without sessions and blocks may evict keys",
}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "cachekeeper"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_refused_write(
    shop: Shop,
    own_redis: RedisServer,
    said: Callable[[], list[str]],
    cause: Callable[[Any], None],
    write: Callable[[Keeper], None],
) -> None:
    with own_redis.client() as client:
        cause(client)
    keeper = shop.keeper(redis_url=own_redis.url, **PATIENT)
    for _ in range(2):
        write(keeper)
    (warning,) = said()
    assert warning.startswith(f"Redis at 127.0.0.1:{own_redis.port}: {CAUSES[cause]}")
    assert "secret" not in warning


def test_all_that_is_written_shares_one_warning(
    shop: Shop, own_redis: RedisServer, said: Callable[[], list[str]]
) -> None:
    with own_redis.client() as client:
        _becomes_a_replica(client)
    keeper = shop.keeper(redis_url=own_redis.url, **PATIENT)
    for write in WRITERS:
        write(keeper)
    assert len(said()) == 1


@pytest.mark.parametrize("write", WRITERS)
def test_an_outage_is_no_refusal(shop: Shop, said: Callable[[], list[str]], write: Callable[[Keeper], None]) -> None:
    write(shop.keeper(redis_url=f"redis://127.0.0.1:{free_port()}", **NO_REDIS))
    assert said() == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_cluster_whose_host_is_unknown(
    shop: Shop, said: Callable[[], list[str]], write: Callable[[Keeper], None]
) -> None:
    keeper = shop.keeper(redis_url="redis+cluster://:secret@cache.invalid:7000", **NO_REDIS)
    for _ in range(2):
        write(keeper)
    (warning,) = said()
    assert warning.startswith("Redis at cache.invalid:7000: its host name is unknown; correct")


@pytest.mark.parametrize("write", WRITERS)
def test_a_server_that_is_no_cluster(
    shop: Shop, own_redis: RedisServer, said: Callable[[], list[str]], write: Callable[[Keeper], None]
) -> None:
    keeper = shop.keeper(redis_url=f"redis+cluster://127.0.0.1:{own_redis.port}", **PATIENT)
    for _ in range(2):
        write(keeper)
    (warning,) = said()
    assert warning.startswith(f"Redis at 127.0.0.1:{own_redis.port}: it is not a Cluster; begin the URL with redis://")
