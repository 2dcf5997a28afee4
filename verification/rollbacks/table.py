"""Faults with stale reads for a limited time: a Redis with older data, and a deposed MongoDB primary that answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Self

import redis

from cachekeeper import Keeper, Settings
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import Guardian, MongoServer, RedisServer, find_mongod, find_redis
from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.model.commands import Command, InvalidateAll, Write
from cachekeeper.values.keys import meta_key
from lookups import (
    BLOCKED,
    SEARCH,
    SESSION,
    USER_NAME,
    block_token,
    is_blocked,
    read_session,
    read_user,
    save_session,
    search_products,
)
from testkit.older_redis import KINDS, FromSnapshot, OlderRedis
from testkit.report import Figure, at_most, plain, store
from verification.rollbacks import deposed

WORKERS = 2
VIEWS = 4
FEW, MANY = 1_000, 100_000
REPETITIONS, REPETITIONS_OF_MANY = 4, 3
# A worker looks for older data every half second. The rest is slack for a busy machine.
TOKEN_TARGET = 1.0
VALUE_TARGET = 2.0
CHANGED = 20
OLD_VALUES = {b"old", b'{"is":"old"}', b"[]"}
ALL_NEW = ({"new"}, {"is": "new"}, 1, {True})
PATIENCE = 60.0


def main() -> bool:
    """Measure, and store the figures. Return whether all targets were held."""
    with Guardian() as guardian:
        figures = [*_older_redis(guardian), *deposed.figures(guardian)]
    return store("rollbacks", figures, [find_redis(), find_mongod()])


# --- a Redis that comes back with older data --------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The results of one repetition. Times are in seconds since the server was back.

    Attributes:
        tokens: when a blocked token was last found free; 0 if never.
        values: when an older value was last read.
        recovered: when all data was fresh and *ready* was there again.
        saw_token: whether a reader found a blocked token free.
    """

    tokens: float
    values: float
    recovered: float
    saw_token: bool


class Readers:
    """Threads that ask Redis all the time, as a service in any language may, and note when it had older data.

    They do not use lookups. After an error, a lookup does not ask Redis for a moment, so it would miss older data.

    Args:
        server: the Redis to ask.
        looks: by kind of data, a function that asks Redis and returns whether the answer was older data.
    """

    def __init__(self, server: RedisServer, looks: dict[str, Callable[[redis.Redis], bool]]) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._server = server
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(len(looks))
        self._looks = looks
        self._ended: list[Future[None]] = []

    def _look(self, kind: str, look: Callable[[redis.Redis], bool]) -> None:
        with self._server.client() as client:
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    older = look(client)
                except redis.RedisError:  # it is down, or loading its data
                    continue
                if older:
                    self.first.setdefault(kind, began)
                    self.last[kind] = began

    def __enter__(self) -> Self:
        self._ended = [self._pool.submit(self._look, *item) for item in self._looks.items()]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        for ended in self._ended:
            ended.result()


def _older_redis(guardian: Guardian) -> list[Figure]:
    figures: list[Figure] = []
    mongo, broker = MongoServer(guardian, find_mongod()), RedisServer(guardian, find_redis(), name="broker")
    mongo.start()
    broker.start()
    try:
        for name, kind in KINDS.items():
            seen = _repeated(guardian, kind, mongo, broker, FEW, REPETITIONS)
            figures += _figures(f"{name}, {FEW:,} cached names", seen, (TOKEN_TARGET, VALUE_TARGET))
        seen = _repeated(guardian, FromSnapshot, mongo, broker, MANY, REPETITIONS_OF_MANY)
        figures += _figures(f"an old snapshot, {MANY:,} cached names", seen, (TOKEN_TARGET, None))
    finally:
        mongo.kill()
        broker.kill()
    return figures


def _figures(said: str, seen: Sequence[Seen], targets: tuple[float, float | None]) -> list[Figure]:
    tokens, values = max(one.tokens for one in seen), max(one.values for one in seen)
    of = f"longest of {len(seen)}"
    said_values = f"{said}: older values are read for, {of}"
    return [
        at_most(f"{said}: a blocked token is taken for free for, {of}", tokens, targets[0], "seconds"),
        plain(f"{said}: a reader found one free in, of {len(seen)}", sum(one.saw_token for one in seen), "times"),
        plain(said_values, values, "seconds")
        if targets[1] is None
        else at_most(said_values, values, targets[1], "seconds"),
        plain(f"{said}: the same, median", median(one.values for one in seen), "seconds"),
        plain(f"{said}: until all is fresh and *ready* again, {of}", max(one.recovered for one in seen), "seconds"),
    ]


def _repeated(
    guardian: Guardian, kind: type[OlderRedis], mongo: MongoServer, broker: RedisServer, names: int, times: int
) -> list[Seen]:
    with ExitStack() as stack:
        older = stack.enter_context(kind(guardian, find_redis()))
        keeper = Keeper(Settings(redis_url=older.server.url, mongodb_url=mongo.url))
        stack.callback(keeper.close)
        environment = {
            "CACHEKEEPER_REDIS_URL": older.server.url,
            "CACHEKEEPER_MONGODB_URL": mongo.url,
            "CACHEKEEPER_BROKER_URL": broker.url,
        }
        for _ in range(WORKERS):
            worker = WorkerProcess(guardian, environment)
            worker.start()
            stack.callback(worker.stop)
        return [_once(older, keeper, names, number) for number in range(times)]


def _once(older: OlderRedis, keeper: Keeper, names: int, number: int) -> Seen:
    """Change everything and wait for the acknowledgements. Then let Redis come back with the data from before."""
    changed = [index * (names // CHANGED) for index in range(CHANGED)]
    session, tokens = f"session-{number}", [f"token-{number}-{index}" for index in range(CHANGED)]
    keeper.database.users.delete_many({})
    keeper.database.users.insert_many({"_id": user, "name": "old", "version": 1} for user in changed)
    for collection in ("products", "sessions", "blocked_tokens"):
        keeper.database[collection].delete_many({})
    client = keeper.store(USER_NAME.server).client
    client.flushall()
    _await(
        lambda: _is_ready(keeper) and len(client.keys("cachekeeper:*-incarnation")) == VIEWS,
        "*ready* and all marks",
    )
    _cache_names(keeper, names)
    save_session(session, {"is": "old"}, keeper=keeper)
    assert search_products("lamp", keeper=keeper) == []
    blocks = [BLOCKED.template.key(token) for token in tokens]
    assert client.exists(*blocks) == 0
    older.remember()
    keeper.database.users.update_many({}, {"$set": {"name": "new", "version": 2}})
    keeper.database.products.insert_one({"name": "Lamp"})
    _apply(
        keeper, [Write(USER_NAME, str(user), "new", 2) for user in changed], [InvalidateAll(SEARCH, "a new product")]
    )
    save_session(session, {"is": "new"}, keeper=keeper)
    for token in tokens:
        block_token(token, None, keeper=keeper)

    assert _now(keeper, changed, session, tokens) == ALL_NEW
    keys = [USER_NAME.template.key(str(user)) for user in changed]
    keys += [SESSION.template.key(session), SEARCH.template.key("lamp")]

    def older_token(client: redis.Redis) -> bool:
        pipe = client.pipeline(transaction=True)
        pipe.exists(BLOCKED.ready_key)
        pipe.exists(*blocks)
        ready, blocked = pipe.execute()
        return bool(ready) and blocked < len(blocks)

    def older_value(client: redis.Redis) -> bool:
        return not OLD_VALUES.isdisjoint(client.mget(keys))

    with Readers(older.server, {"tokens": older_token, "values": older_value}) as readers:
        older.come_back()
        back = time.monotonic()
        _await(lambda: _is_ready(keeper) and _now(keeper, changed, session, tokens) == ALL_NEW, "fresh data")
        recovered = time.monotonic()
    # *Ready* may be gone before a reader looks, so a free token may not be seen. But older values must be seen.
    assert "values" in readers.first, "no reader saw older data, so nothing was measured"
    back = min(back, *readers.first.values())
    spans = {kind: readers.last.get(kind, back) - back for kind in ("tokens", "values")}
    return Seen(**spans, recovered=recovered - back, saw_token="tokens" in readers.first)


def _now(keeper: Keeper, users: Sequence[int], session: str, tokens: Sequence[str]) -> tuple[object, ...]:
    """The present answers of the lookups."""
    return (
        {read_user(user, keeper=keeper) for user in users},
        read_session(session, keeper=keeper),
        len(search_products("lamp", keeper=keeper)),
        {is_blocked(token, keeper=keeper) for token in tokens},
    )


def _cache_names(keeper: Keeper, names: int) -> None:
    """Cache names with their metadata, as fills do."""
    client = keeper.store(USER_NAME.server).client
    for at in range(0, names, 5000):
        pipe = client.pipeline(transaction=False)
        for user in range(at, min(at + 5000, names)):
            key = USER_NAME.template.key(str(user))
            pipe.set(key, "old", ex=3600)
            pipe.hset(meta_key(key), mapping={"v": 1})
            pipe.expire(meta_key(key), 7200)
        pipe.execute()


def _is_ready(keeper: Keeper) -> bool:
    return bool(keeper.store(BLOCKED.server).client.exists(BLOCKED.ready_key))


def _apply(keeper: Keeper, *batch: Sequence[Command]) -> None:
    for result in apply(keeper, batch):
        if result.error is not None:
            raise result.error


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.01)
