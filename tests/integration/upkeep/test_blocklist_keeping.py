"""A worker keeps a blocklist ready: through flushes, restarts, outages, other workers, and servers set to evict."""

import logging
import threading
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachekeeper import COUNTERS, CacheUnavailable, DatabaseUnavailable, Keeper, PersistedNotCached
from cachekeeper.devservers import MongoServer, RedisServer
from cachekeeper.protocol import scripts
from cachekeeper.upkeep import blocklist_keeper as keeping
from cachekeeper.upkeep.blocklist_keeper import BlocklistKeeper
from cachekeeper.upkeep.blocklist_warming import Passed, write_blocks
from lookups import BLOCKED, block_token, is_blocked
from testkit import tokens
from testkit.taps import Cut, MongoTap, RedisTap, Words
from testkit.tokens import KEY, NONCE, NOWHERE_MONGO, NOWHERE_REDIS, READY, RESTED, TOKEN
from testkit.waiting import wait_until

DECLARE = scripts.declare_ready("", "", "").script.sha.encode()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlocklistKeeper, "look_seconds", 0.02)
    monkeypatch.setattr(BlocklistKeeper, "backoff_seconds", 0.1)


@pytest.fixture
def mongo(mongo_server: MongoServer, database: str) -> Iterator[MongoTap]:
    with MongoTap(mongo_server, database) as mongo:
        mongo.database["blocked_tokens"].insert_one({"_id": TOKEN, "expires_at": None})
        mongo.commands.clear()
        yield mongo


@pytest.fixture
def kept(keeper: Keeper) -> Iterator[BlocklistKeeper]:
    kept = BlocklistKeeper(keeper, BLOCKED)
    yield kept
    kept.stop()


def is_ready(client: redis.Redis) -> bool:
    return client.exists(READY, KEY) == 2


# --- one look ---------------------------------------------------------------------------------------------------------


def test_a_look_does_what_is_due_and_no_more(kept: BlocklistKeeper, client: redis.Redis, mongo: MongoTap) -> None:
    assert kept.run_once() is Passed.READY
    assert kept.run_once() is None
    assert mongo.of("blocked_tokens") == ["find"]
    client.delete(RESTED)  # its time is over
    assert kept.run_once() is Passed.READY
    client.delete(READY)
    assert kept.run_once() is Passed.READY
    assert mongo.of("blocked_tokens") == ["find"] * 3


def test_a_block_that_redis_failed_is_there_after_the_next_full_pass(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    # all read · a block in MongoDB, but its writer cannot reach Redis, and is told so · ready
    def before(words: Words) -> None:
        if words[1:2] == [DECLARE]:
            with tokens.keeping(NOWHERE_REDIS, mongo) as cut_off, pytest.raises(PersistedNotCached):
                block_token("late", None, keeper=cut_off)

    with RedisTap(redis_server) as tap, tokens.keeping(tap.url, mongo) as keeper:
        kept = BlocklistKeeper(keeper, BLOCKED)
        client.script_load(scripts.declare_ready("", "", "").script.source)
        tap.before = before
        assert kept.run_once() is Passed.READY
        tap.before = lambda _words: None
        assert is_blocked("late", keeper=keeper) is False, "nobody has acknowledged it"
        left = client.pttl(RESTED)
        assert isinstance(left, int)
        assert 0 < left <= 60_000, "the bound that is stated"
        client.delete(RESTED)
        assert kept.run_once() is Passed.READY
        assert is_blocked("late", keeper=keeper) is True


def test_a_server_that_may_evict_is_not_ready(
    kept: BlocklistKeeper, keeper: Keeper, client: redis.Redis, mongo: MongoTap, caplog: pytest.LogCaptureFixture
) -> None:
    assert kept.run_once() is Passed.READY
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        mongo.commands.clear()
        assert [kept.run_once(), kept.run_once()] == [Passed.UNFIT] * 2
        assert len([record for record in caplog.records if "cannot be kept ready" in record.message]) == 1
        assert not is_ready(client)
        assert write_blocks(keeper, BLOCKED) is Passed.UNFIT
        assert mongo.commands == []
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    client.delete(KEY)  # evicted
    assert kept.run_once() is Passed.READY
    assert is_ready(client)


def test_a_server_set_to_evict_during_a_pass_is_not_ready(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    def before(words: Words) -> None:
        if words[0] == b"PEXPIRE":
            client.config_set("maxmemory-policy", "allkeys-lru")

    try:
        with RedisTap(redis_server) as tap, tokens.keeping(tap.url, mongo) as keeper:
            tap.before = before
            assert write_blocks(keeper, BLOCKED) is Passed.UNFIT
            assert client.exists(READY, NONCE) == 0
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_only_one_worker_passes_at_a_time(
    redis_server: RedisServer, kept: BlocklistKeeper, client: redis.Redis, mongo: MongoTap
) -> None:
    seen: list[Passed | None] = []

    def before(words: Words) -> None:
        if words[0] == b"PEXPIRE":
            seen.append(kept.run_once())

    with RedisTap(redis_server) as tap, tokens.keeping(tap.url, mongo) as keeper:
        tap.before = before
        assert write_blocks(keeper, BLOCKED) is Passed.READY
    assert seen == [Passed.TAKEN]
    assert kept.run_once() is None
    assert mongo.of("blocked_tokens") == ["find"]
    assert is_ready(client)


def test_a_dead_workers_nonce_ends_by_itself(kept: BlocklistKeeper, client: redis.Redis) -> None:
    client.set(NONCE, "a dead worker's", px=100)
    assert kept.run_once() in {Passed.TAKEN, Passed.READY}
    wait_until(lambda: kept.run_once() is not Passed.TAKEN, "the nonce to end", 5)
    assert is_ready(client)


def test_a_worker_that_comes_back_to_life_does_not_declare_ready(
    redis_server: RedisServer, kept: BlocklistKeeper, client: redis.Redis, mongo: MongoTap
) -> None:
    # suspended before its declaration · its nonce ends · another pass · flush · it declares
    def before(words: Words) -> None:
        if words[1:2] == [DECLARE]:
            client.delete(NONCE)
            assert kept.run_once() is Passed.READY
            client.flushall()

    with RedisTap(redis_server) as tap, tokens.keeping(tap.url, mongo) as keeper:
        client.script_load(scripts.declare_ready("", "", "").script.source)
        tap.before = before
        assert write_blocks(keeper, BLOCKED) is Passed.LOST
    assert client.exists(READY) == 0


def test_an_outage_in_a_pass_is_an_error_and_lets_others_begin(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    def before(words: Words) -> None:
        if words[0] in {b"EVALSHA", b"EVAL"}:
            raise Cut

    with RedisTap(redis_server) as tap, tokens.keeping(tap.url, mongo) as keeper:
        tap.before = before
        with pytest.raises(CacheUnavailable) as caught:
            write_blocks(keeper, BLOCKED)
    assert TOKEN not in str(caught.value)
    assert client.exists(READY, NONCE) == 0
    with tokens.keeping(redis_server.url, NOWHERE_MONGO, **tokens.SHORT) as keeper, pytest.raises(DatabaseUnavailable):
        write_blocks(keeper, BLOCKED)
    assert client.exists(READY, NONCE) == 0


def test_an_answer_about_the_nonce_that_was_lost(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    lost: list[bytes] = []

    def lose(words: Words) -> None:
        if not lost and words[0] == b"SET":
            lost.append(words[1])
            raise Cut

    with RedisTap(redis_server) as tap, redis.Redis.from_url(tap.url, protocol=2, retry=Retry(NoBackoff(), 0)) as own:
        keeper = Keeper(tokens.settings_of(tap.url), cache=own, database=mongo.database)
        tap.after = lose
        with pytest.raises(CacheUnavailable):
            write_blocks(keeper, BLOCKED)
        assert not client.exists(NONCE), "nobody waits for it to end"
        assert write_blocks(keeper, BLOCKED) is Passed.READY
    assert lost == [NONCE.encode()]
    assert is_ready(client)


# --- the thread -------------------------------------------------------------------------------------------------------


def test_it_makes_ready_after_a_start_and_after_a_flush(kept: BlocklistKeeper, client: redis.Redis) -> None:
    kept.start()
    for _ in range(3):
        wait_until(lambda: is_ready(client), "ready")
        client.flushall()
    wait_until(lambda: is_ready(client), "ready")
    assert "cachekeeper: view blocked" in {thread.name for thread in threading.enumerate()}
    kept.stop()
    client.flushall()
    assert "cachekeeper: view blocked" not in {thread.name for thread in threading.enumerate()}


def test_it_can_be_stopped_twice_and_started_again(kept: BlocklistKeeper, client: redis.Redis) -> None:
    kept.stop()
    kept.start()
    with pytest.raises(RuntimeError, match="runs already"):
        kept.start()
    kept.stop()
    kept.stop()
    client.flushall()
    kept.start()
    wait_until(lambda: is_ready(client), "ready")


def test_two_workers_do_not_disturb_each_other(kept: BlocklistKeeper, keeper: Keeper, client: redis.Redis) -> None:
    second = BlocklistKeeper(keeper, BLOCKED)
    kept.start()
    second.start()
    try:
        for _ in range(5):
            wait_until(lambda: is_ready(client), "ready")
            client.flushall()
        wait_until(lambda: is_ready(client), "ready")
    finally:
        second.stop()


@pytest.mark.parametrize("outage", ["killed", "hung"])
def test_an_outage_of_redis_is_logged_once_and_waited_for(
    own_redis: RedisServer, mongo: MongoTap, caplog: pytest.LogCaptureFixture, outage: str
) -> None:
    def told() -> list[str]:
        """How the log tells of outages. Before and after the test's own one, a slow answer may have made others."""
        return [
            "begins" if "keeping its blocks in Redis failed" in record.message else record.message[-5:]
            for record in list(caplog.records)
            if "keeping its blocks in Redis" in record.message
        ]

    with tokens.keeping(own_redis.url, mongo, **tokens.NO_REDIS) as keeper:
        kept = BlocklistKeeper(keeper, BLOCKED)
        kept.start()
        try:
            with own_redis.client() as client:
                wait_until(lambda: is_ready(client), "ready")
            failed = COUNTERS["blocklist_pass_failed"]
            with caplog.at_level(logging.WARNING, "cachekeeper"):
                own_redis.kill() if outage == "killed" else own_redis.pause()
                wait_until(lambda: COUNTERS["blocklist_pass_failed"] > failed + 3, "the outage to be noticed")
                own_redis.start() if outage == "killed" else own_redis.resume()
                wait_until(lambda: told()[-1:] == ["again"], "the recovery")
            with own_redis.client() as client:
                wait_until(lambda: is_ready(client), "ready")
            # The four failures were of one outage, so that a second line about it would follow the first.
            lines = told()
            assert lines == (["begins", "again"] * len(lines))[: len(lines)]
            assert TOKEN not in caplog.text
        finally:
            kept.stop()


def test_an_outage_of_mongodb_is_waited_for(
    redis_server: RedisServer, own_mongo: MongoServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with tokens.keeping(redis_server.url, own_mongo.url) as patient:  # the first write of a new MongoDB is slow
        block_token(TOKEN, None, keeper=patient)
    with tokens.keeping(redis_server.url, own_mongo.url, **tokens.SHORT) as keeper:
        client.flushall()
        own_mongo.pause()
        kept = BlocklistKeeper(keeper, BLOCKED)
        kept.start()
        try:
            wait_until(lambda: "keeping its blocks in Redis failed" in caplog.text, "the outage to be noticed")
            assert client.exists(READY) == 0
            own_mongo.resume()
            wait_until(lambda: is_ready(client), "ready")
        finally:
            kept.stop()


def test_an_error_nobody_thought_of_is_logged_without_its_text_and_survived(
    kept: BlocklistKeeper,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> Passed:
        raise ValueError(f"cannot decode {TOKEN}")

    with monkeypatch.context() as broken_passes, caplog.at_level(logging.WARNING, "cachekeeper"):
        broken_passes.setattr(keeping, "write_blocks", broken)
        kept.start()
        wait_until(lambda: "ValueError" in caplog.text, "the error to be logged")
    wait_until(lambda: is_ready(client), "ready")
    assert "in broken" in caplog.text, "where it was"
    assert TOKEN not in caplog.text
