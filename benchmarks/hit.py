"""The cost of a hit: `read_user` beside a bare `GET`, and beside other libraries, used as their documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import median
from typing import Any

import aiocache
import cashews
from aiocache.serializers import StringSerializer
from dogpile.cache import make_region

from cachekeeper import COUNTERS, Keeper, Settings
from cachekeeper.connections.redis_clients import connect_redis
from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from cachekeeper.protocol import Store
from lookups import read_user
from testkit.report import at_most, plain, ratio, rounds, store

HITS = 300
ROUNDS = 60
TARGET = 1.15
USER = 4711
KEY = f"user:{USER}:name"
NAME = "Ada Lovelace"


def main() -> bool:
    """Measure, and return whether the target was met."""
    with Guardian() as guardian:
        redis, mongo = RedisServer(guardian, find_redis()), MongoServer(guardian, find_mongod())
        redis.start()
        mongo.start()
        try:
            return _measure(redis, mongo)
        finally:
            redis.stop()
            mongo.stop()


def _measure(redis: RedisServer, mongo: MongoServer) -> bool:
    settings = Settings(redis_url=redis.url, mongodb_url=mongo.url)
    keeper = Keeper(settings)
    keeper.database.users.insert_one({"_id": USER, "name": NAME, "version": 1})
    bare = Store(connect_redis(settings.redis_url, settings.redis_timeout_seconds)).client
    runner = asyncio.Runner()
    try:
        assert read_user(USER, keeper=keeper) == NAME  # the fill
        loads = COUNTERS["load"]
        contenders = {
            "bare GET": lambda: _repeat(lambda: bare.get(KEY), NAME.encode()),
            "read_user": lambda: _repeat(lambda: read_user(USER, keeper=keeper), NAME),
            **_dogpile(redis),
            **_cashews(redis, runner),
            **_aiocache(redis, runner),
        }
        seconds = rounds(contenders, count=ROUNDS)
        assert COUNTERS["load"] == loads, "a lookup was not a hit"
    finally:
        runner.close()
        bare.close()
        keeper.close()
    figures = [
        at_most(
            "read_user, a hit, to a bare GET (median of paired rounds)", ratio(seconds, "read_user", "bare GET"), TARGET
        )
    ]
    figures += [
        plain(f"{name}, a hit, to a bare GET", ratio(seconds, name, "bare GET"))
        for name in contenders
        if name not in {"bare GET", "read_user"}
    ]
    figures += [plain(f"{name}, one hit", median(seconds[name]) / HITS * 1e6, "microseconds") for name in contenders]
    return store("hit", figures, [redis.found, mongo.found])


def _repeat(call: Callable[[], object], expected: object) -> None:
    for _ in range(HITS):
        found = call()
    assert found == expected


def _dogpile(redis: RedisServer) -> dict[str, Callable[[], None]]:
    """dogpile.cache with its distributed lock, as for several processes."""
    region = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=3600,
        arguments={
            "url": redis.url,
            "redis_expiration_time": 7200,
            "distributed_lock": True,
            "thread_local_lock": False,
        },
    )

    @region.cache_on_arguments(namespace="dogpile")
    def name_of(user_id: int) -> str:
        assert user_id == USER
        return NAME

    return {"dogpile.cache (distributed lock)": lambda: _repeat(lambda: name_of(USER), NAME)}


def _cashews(redis: RedisServer, runner: asyncio.Runner) -> dict[str, Callable[[], None]]:
    """cashews: its decorator, with the lock that its documentation recommends against a stampede."""
    cache = cashews.Cache()
    cache.setup(redis.url)

    @cache(ttl="1h", key="cashews:{user_id}", lock=True)
    async def name_of(user_id: int) -> str:
        assert user_id == USER
        return NAME

    return {"cashews (lock)": lambda: runner.run(_repeat_async(lambda: name_of(USER)))}


def _aiocache(redis: RedisServer, runner: asyncio.Runner) -> dict[str, Callable[[], None]]:
    """aiocache: its decorator against a stampede, which acquires a lease on a miss."""

    @aiocache.cached_stampede(  # type: ignore[untyped-decorator]  # it ships no types
        lease=2,
        ttl=3600,
        cache=aiocache.RedisCache,
        key_builder=lambda _, user_id: f"aiocache:{user_id}",
        serializer=StringSerializer(),
        endpoint="127.0.0.1",
        port=redis.port,
    )
    async def name_of(user_id: int) -> str:
        assert user_id == USER
        return NAME

    return {"aiocache (stampede lease)": lambda: runner.run(_repeat_async(lambda: name_of(USER)))}


async def _repeat_async(call: Callable[[], Any]) -> None:
    for _ in range(HITS):
        found = await call()
    assert found == NAME
