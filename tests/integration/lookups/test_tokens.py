"""Asking for logged-out tokens: of Redis in one step, of MongoDB where Redis cannot say, and never 'no' by mistake."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from pymongo.database import Database
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import Keeper, Server
from cachekeeper.devservers import RedisServer
from cachekeeper.protocol.outcomes import Blocked
from cachekeeper.reading.blocklist import BlocklistReader, EvictionWatch
from lookups import block_token, is_blocked
from testkit.taps import MongoTap, RedisTap, Words
from testkit.tokens import (
    FOREIGN_IDS,
    KEY,
    LEEWAY,
    NOWHERE_MONGO,
    READY,
    TOKEN,
    end_of,
    end_of_key,
    keeping,
    life_of,
    settings_of,
    soon,
)


def block_everywhere(client: redis.Redis, database: Database[Any], until: datetime | None = None) -> None:
    """A block as another service makes it, in both places."""
    database["blocked_tokens"].insert_one({"_id": TOKEN, "expires_at": until})
    client.set(KEY, "true")


def test_a_block_is_in_both_places_until_the_token_expires_plus_leeway(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    until = soon()
    assert block_token(TOKEN, until, keeper=keeper) is Blocked.BLOCKED
    assert client.get(KEY) == b"true"
    assert life_of(client) == pytest.approx(3600 + LEEWAY, abs=5)
    assert end_of(mongo.database) == until, "the token's own expiry, without leeway"
    assert is_blocked(TOKEN, keeper=keeper)


@pytest.mark.parametrize("part", [0.5, 0.000_001, 0.999_999], ids=str)
def test_a_fraction_of_exp_never_ends_a_block_early(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap, part: float
) -> None:
    exp = int(soon().timestamp()) + part
    assert block_token(TOKEN, exp, keeper=keeper) is Blocked.BLOCKED
    assert end_of(mongo.database) == datetime.fromtimestamp(int(exp) + 1, UTC)
    assert end_of_key(client) == (int(exp) + 1 + LEEWAY) * 1000


def test_parts_of_a_millisecond_never_end_a_block_early(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    until = soon().replace(microsecond=500_001)
    assert block_token(TOKEN, until, keeper=keeper) is Blocked.BLOCKED
    assert end_of(mongo.database) == until.replace(microsecond=501_000)
    assert end_of_key(client) == (int(until.timestamp()) + LEEWAY) * 1000 + 501


def test_absent_and_not_ready_is_asked_of_mongodb(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    assert is_blocked(TOKEN, keeper=keeper) is False
    assert mongo.of("blocked_tokens") == ["find"]
    block_everywhere(client, mongo.database)
    client.flushall()
    assert is_blocked(TOKEN, keeper=keeper) is True


def test_ready_spares_mongodb(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    client.set(READY, "true")
    assert is_blocked(TOKEN, keeper=keeper) is False
    client.set(KEY, "true")
    assert is_blocked(TOKEN, keeper=keeper) is True
    assert mongo.commands == []


def test_a_look_is_one_multi_of_two_exists(redis_server: RedisServer, client: redis.Redis) -> None:
    client.set(READY, "true")
    with RedisTap(redis_server) as tap, keeping(tap.url, NOWHERE_MONGO) as keeper:
        assert is_blocked(TOKEN, keeper=keeper) is False
        tap.commands.clear()
        assert is_blocked(TOKEN, keeper=keeper) is False
        assert tap.names() == ["MULTI", "EXISTS", "EXISTS", "EXEC"]


class PlainPipelines(redis.Redis):
    """A mutant's client: nothing keeps the commands of a pipeline together."""

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: ARG002, FBT001, FBT002
        return super().pipeline(transaction=False, shard_hint=shard_hint)


def _ready_first(self: BlocklistReader, key: str) -> bool | None:
    """A mutant: two commands, the other way round."""
    ready = self._reader.store.client.exists(self._view.ready_key)
    blocked = self._reader.store.client.exists(key)
    return True if blocked else (False if ready else None)


def straddled(
    redis_server: RedisServer, mongo: MongoTap, between: Callable[[], object], client: type[redis.Redis]
) -> bool:
    """What `is_blocked` says if something happens between its two commands."""
    asked = 0

    def before(words: Words) -> None:
        nonlocal asked
        asked += words[0] == b"EXISTS"
        if asked == 2:
            between()

    with RedisTap(redis_server) as tap, client.from_url(tap.url, protocol=2, retry=Retry(NoBackoff(), 0)) as through:
        keeper = Keeper(settings_of(tap.url), cache=through, database=mongo.database)
        keeper.may_evict(Server.SECURITY)
        tap.before = before
        answer = is_blocked(TOKEN, keeper=keeper)
    assert asked == 2
    return answer


@pytest.mark.parametrize("mutant", [False, True])
def test_warming_that_ends_between_the_two_answers(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap, *, mutant: bool
) -> None:
    block_everywhere(client, mongo.database)
    client.flushall()

    # EXISTS block -> 0 · warming writes the block and sets ready · EXISTS ready -> 1
    def warming_ends() -> None:
        client.set(KEY, "true")
        client.set(READY, "true")

    kind = PlainPipelines if mutant else redis.Redis
    assert straddled(redis_server, mongo, warming_ends, kind) is not mutant


@pytest.mark.parametrize("mutant", [False, True])
def test_a_flush_between_the_two_answers(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap, monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    block_everywhere(client, mongo.database)
    client.set(READY, "true")
    if mutant:
        monkeypatch.setattr(BlocklistReader, "_ask_redis", _ready_first)
    # EXISTS ready -> 1 · flush · EXISTS block -> 0
    assert straddled(redis_server, mongo, client.flushall, redis.Redis) is not mutant


# --- a server that may evict ------------------------------------------------------------------------------------------


@pytest.fixture
def evicting(client: redis.Redis) -> Iterator[redis.Redis]:
    client.config_set("maxmemory-policy", "volatile-lru")
    yield client
    client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("mutant", [False, True])
def test_absence_on_a_server_that_may_evict_means_nothing(
    evicting: redis.Redis,
    keeper: Keeper,
    mongo: MongoTap,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    mutant: bool,
) -> None:
    if mutant:
        monkeypatch.setattr(EvictionWatch, "may_evict", lambda _self: False)
    block_everywhere(evicting, mongo.database)
    evicting.set(READY, "true")
    evicting.delete(KEY)  # evicted
    with caplog.at_level(logging.WARNING, "cachekeeper"):
        answers = [is_blocked(token, keeper=keeper) for token in (TOKEN, TOKEN, "free")]
    assert answers == ([False] * 3 if mutant else [True, True, False])
    assert mongo.of("blocked_tokens") == ["insert"] + ([] if mutant else ["find"] * 3)
    assert len([record for record in caplog.records if "may evict" in record.message]) == (0 if mutant else 1)
    assert TOKEN not in caplog.text


def test_nobody_waits_for_somebody_elses_question_about_eviction(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    client.set(READY, "true")
    hangs, goes_on = threading.Event(), threading.Event()

    def before(words: Words) -> None:
        if words[0] == b"INFO":
            hangs.set()
            assert goes_on.wait(30)

    with (
        RedisTap(redis_server) as tap,
        keeping(tap.url, mongo, redis_timeout_seconds=20, lookup_timeout_seconds=60, lease_seconds=60) as keeper,
    ):
        tap.before = before
        first: list[bool] = []
        thread = threading.Thread(target=lambda: first.append(is_blocked(TOKEN, keeper=keeper)))
        thread.start()
        assert hangs.wait(30)
        # The first still waits for INFO. Behind a lock this one would wait as long, and the next after it.
        assert is_blocked(TOKEN, keeper=keeper) is False
        assert mongo.of("blocked_tokens") == ["find"], "and did not take it for 'may not evict'"
        assert not goes_on.is_set()
        goes_on.set()
        thread.join()
        assert first == [False]


# --- what others wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hash", "list", "set", "sorted set", "stream", "empty text"])
def test_whatever_lies_at_the_key_means_blocked(keeper: Keeper, client: redis.Redis, kind: str) -> None:
    client.set(READY, "true")
    match kind:
        case "hash":
            client.hset(KEY, "a", "b")
        case "list":
            client.rpush(KEY, "a")
        case "set":
            client.sadd(KEY, "a")
        case "sorted set":
            client.zadd(KEY, {"a": 1})
        case "stream":
            client.xadd(KEY, {"a": "b"})
        case _:
            client.set(KEY, "")
    client.pexpire(KEY, 5000)
    assert is_blocked(TOKEN, keeper=keeper) is True
    assert block_token(TOKEN, soon(), keeper=keeper) is Blocked.BLOCKED, "it is given more time"
    assert life_of(client) > 3600


@pytest.mark.parametrize(("document_id", "token"), FOREIGN_IDS, ids=repr)
def test_an_id_is_found_however_others_stored_it(
    keeper: Keeper, mongo: MongoTap, document_id: object, token: str
) -> None:
    mongo.database["blocked_tokens"].insert_one({"_id": document_id, "expires_at": None})
    assert is_blocked(token, keeper=keeper) is True


@pytest.mark.parametrize(
    ("fields", "blocked"),
    [
        ({}, True),
        ({"expires_at": None}, True),
        ({"expires_at": "tomorrow"}, True),
        ({"expires_at": 1}, True),
        ({"expires_at": timedelta(seconds=-LEEWAY + 20)}, True),
        ({"expires_at": timedelta(seconds=-LEEWAY - 1)}, False),
    ],
    ids=["no end", "null", "text", "a number", "within the leeway", "past it"],
)
def test_a_block_stands_unless_its_end_is_a_date_in_the_past(
    keeper: Keeper, mongo: MongoTap, fields: dict[str, Any], *, blocked: bool
) -> None:
    document = {"_id": TOKEN} | {
        name: datetime.now(UTC) + value if isinstance(value, timedelta) else value for name, value in fields.items()
    }
    mongo.database["blocked_tokens"].insert_one(document)
    assert is_blocked(TOKEN, keeper=keeper) is blocked


def test_the_last_date_that_there_is_means_for_ever(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    last = "9999-12-31T23:59:59.999Z"
    assert block_token(TOKEN, last, keeper=keeper) is Blocked.BLOCKED
    assert life_of(client) > 7000 * 365 * 86400
    client.flushall()
    assert is_blocked(TOKEN, keeper=keeper) is True
    assert end_of(mongo.database) == datetime.fromisoformat(last)
    assert keeper.may_evict(Server.SECURITY) is False


def test_blocks_live_on_the_security_server(
    redis_server: RedisServer, own_redis: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    with (
        keeping(redis_server.url, mongo, security_redis_url=own_redis.url) as keeper,
        own_redis.client() as security,
    ):
        block_token(TOKEN, soon(), keeper=keeper)
        assert (security.exists(KEY), client.exists(KEY)) == (1, 0)
        security.set(READY, "true")
        security.delete(KEY)
        client.set(KEY, "true")
        assert is_blocked(TOKEN, keeper=keeper) is False, "the cache is not asked"
