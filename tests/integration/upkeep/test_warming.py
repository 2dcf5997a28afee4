"""`warm_view`: fills what is absent, and stands in nobody's way."""

import time
from typing import Any

import pytest
import redis
from bson import Int64, ObjectId
from pymongo.monitoring import CommandStartedEvent

from cachekeeper import (
    CacheUnavailable,
    DatabaseUnavailable,
    Keeper,
    Write,
)
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import MongoServer, RedisServer
from cachekeeper.protocol import Value, scripts
from cachekeeper.protocol.outcomes import Acquired, Filled
from cachekeeper.upkeep.warming import Fate, Progress, warm_view
from cachekeeper.values.keys import meta_key
from lookups import SESSION, USER_NAME, read_session, read_user, save_session
from testkit.taps import Cut, MongoTap, RedisTap, Words
from testkit.tokens import keeping, life_of, soon
from testkit.users import key_of, meta_of, names, users

STATE = "cachekeeper:user_name-warmed"


pytestmark = pytest.mark.usefixtures("small_batches")


# --- what is filled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [7, None])
def test_it_fills_every_absent_key(any_redis: RedisServer, mongo: MongoTap, version: int | None) -> None:
    users(mongo, 10, version)
    with keeping(any_redis.url, mongo) as keeper, any_redis.client() as client:
        told: list[tuple[int, int]] = []
        progress = warm_view(keeper, USER_NAME, tell=lambda progress: told.append((progress.done, progress.total)))
        assert progress.fates == {Fate.FILLED: 10}
        assert names(client) == {str(at): f"user {at}" for at in range(10)}
        assert told[0] == (0, 10)
        assert told[-1] == (10, 10)
        assert life_of(client, key_of(3)) == pytest.approx(3600, abs=5)
        assert meta_of(client, key_of(3)) == ({} if version is None else {b"v": b"7"})
        mongo.commands.clear()
        assert [read_user(at, keeper=keeper) for at in range(10)] == [f"user {at}" for at in range(10)]
        assert mongo.commands == []
        assert not client.exists(STATE), "a finished run leaves nothing behind"


def test_a_batch_costs_two_reads_and_three_pipelines(
    redis_server: RedisServer, mongo: MongoTap, keeper: Keeper
) -> None:
    users(mongo, 3)
    warm_view(keeper, USER_NAME)
    with RedisTap(redis_server) as tap, keeping(tap.url, mongo) as tapped:
        mongo.commands.clear()
        users_gone = [scripts.invalidate(key_of(at)) for at in range(3)]
        keeper.store(USER_NAME.server).run_all(users_gone)
        warm_view(tapped, USER_NAME)
        # the page, the load, and the next page, which is empty
        assert mongo.of("users") == ["count", "find", "find", "find"]
        assert tap.names() == ["GET", *["EVALSHA"] * 3, *["EVALSHA"] * 3, "SET", "DEL"]


def test_ids_of_every_type(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    object_id = ObjectId()
    spelt = {object_id: str(object_id), "text": "text", 42.0: "42", Int64(2**60): str(2**60), -1: "-1"}
    unspelt: list[object] = [{"a": 1}, "with space", 4.5, True, None, "43", float("nan")]
    mongo.database["users"].insert_many([{"_id": document_id, "name": "n"} for document_id in [*spelt, *unspelt]])
    progress = warm_view(keeper, USER_NAME)
    assert progress.fates == {Fate.FILLED: len(spelt), Fate.UNSPELT: len(unspelt)}
    assert set(names(client)) == set(spelt.values())
    assert progress.done == len(spelt) + len(unspelt)


def test_the_id_type_of_the_settings_decides(redis_server: RedisServer, client: redis.Redis, mongo: MongoTap) -> None:
    mongo.database["users"].insert_many([{"_id": 1, "name": "one"}, {"_id": "1", "name": "text"}])
    with keeping(redis_server.url, mongo, id_types={"user_name": "str"}) as keeper:
        assert warm_view(keeper, USER_NAME).fates == {Fate.FILLED: 1, Fate.UNSPELT: 1}
    assert names(client) == {"1": "text"}


def test_what_cannot_be_cached_is_counted_and_the_rest_is_filled(
    redis_server: RedisServer, client: redis.Redis, mongo: MongoTap
) -> None:
    documents: list[dict[str, Any]] = [
        {"_id": 1, "name": 5},
        {"_id": 2},
        {"_id": 3, "name": "x" * 100},
        {"_id": 4, "name": "Ada"},
    ]
    mongo.database["users"].insert_many(documents)
    with keeping(redis_server.url, mongo, value_limit_bytes=99) as keeper:
        progress = warm_view(keeper, USER_NAME)
    assert progress.fates == {Fate.DAMAGED: 1, Fate.ABSENT: 1, Fate.TOO_LARGE: 1, Fate.FILLED: 1}
    assert names(client) == {"4": "Ada"}
    assert set(client.keys()) == {key_of(4).encode(), *client.keys(meta_key(key_of(4)))}


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_what_is_there_or_under_way_is_left_alone(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    users(mongo, 6)
    store = keeper.store(USER_NAME.server)
    client.set(key_of(0), "newer", ex=100)
    assert store.run(scripts.acquire(key_of(1), "a reader's", lease_ms=60_000)) is Acquired.GRANTED
    assert store.run(scripts.acquire(key_of(2), "another's", lease_ms=60_000)) is Acquired.GRANTED
    store.run(scripts.fill_absent(key_of(2), "another's", ttl_ms=60_000))
    client.hset(key_of(3), "other", "type")
    apply(keeper, [[Write(USER_NAME, "4", "newest", 9)]])  # announced, and not in the database yet
    before = {at: client.dump(key_of(at)) for at in range(4)} | {-at: meta_of(client, key_of(at)) for at in (1, 2)}

    progress = warm_view(keeper, USER_NAME)
    assert progress.fates == {
        Fate.THERE: 1,
        Fate.TAKEN: 1,
        Fate.ABSENT: 1,
        Fate.DAMAGED: 1,
        Fate.OVERTAKEN: 1,
        Fate.FILLED: 1,
    }
    after = {at: client.dump(key_of(at)) for at in range(4)} | {-at: meta_of(client, key_of(at)) for at in (1, 2)}
    assert after == before
    assert client.exists(key_of(4)) == 0, "the database is behind what an event has announced"
    assert meta_of(client, key_of(4)) == {b"v": b"9"}
    filled = store.run(scripts.fill(key_of(1), "a reader's", Value(b"its own", 2), ttl_ms=1000, marker_ms=1000))
    assert filled is Filled.STORED, "the reader's right to fill"


def test_sessions_that_have_ended_are_skipped_and_others_are_not_touched(
    keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    for name in ("live", "short", "saved by node", "ended", "expired"):
        save_session(name.replace(" ", "-"), {"name": name}, keeper=keeper)
    sessions = mongo.database["sessions"]
    sessions.update_one({"_id": "short"}, {"$set": {"expires_at": soon(100)}})
    sessions.update_one({"_id": "expired"}, {"$set": {"expires_at": soon(-1)}})
    sessions.update_one({"_id": "ended"}, {"$set": {"ended_at": soon(-1)}, "$unset": {"data": 1}})
    client.flushall()
    client.set("session:saved-by-node", '{"newer":1}', ex=1800)
    client.set("session:only-in-redis", "{}", ex=1800)

    progress = warm_view(keeper, SESSION)
    assert progress.fates == {Fate.FILLED: 2, Fate.ABSENT: 2, Fate.THERE: 1}
    assert read_session("live", keeper=keeper) == {"name": "live"}
    assert life_of(client, "session:live") == pytest.approx(1800, abs=10)
    assert life_of(client, "session:short") == pytest.approx(100, abs=10)
    assert client.get("session:saved-by-node") == b'{"newer":1}'
    assert client.get("session:only-in-redis") == b"{}"
    assert client.exists("session:ended", meta_key("session:ended"), meta_key("session:expired")) == 0


# --- interruptions ----------------------------------------------------------------------------------------------------


def interrupted(redis_server: RedisServer, mongo: MongoTap, after: int) -> None:
    """A run that ends with an outage when so many documents are done."""
    done = 0

    def tell(progress: Progress) -> None:
        nonlocal done
        done = progress.done

    def before(words: Words) -> None:
        if done >= after and words[0] == b"EVALSHA":
            raise Cut

    with RedisTap(redis_server) as tap, keeping(tap.url, mongo) as keeper:
        tap.before = before
        with pytest.raises(CacheUnavailable):
            warm_view(keeper, USER_NAME, concurrency=1, tell=tell)


def test_an_interrupted_run_is_continued(
    redis_server: RedisServer, keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    users(mongo, 10)
    interrupted(redis_server, mongo, 6)
    assert len(names(client)) == 6
    assert 0 < life_of(client, STATE) <= 3600, "no longer than the values that were filled"
    client.delete(key_of(0))
    told: list[Progress] = []
    progress = warm_view(keeper, USER_NAME, tell=told.append)
    assert (progress.resumed, progress.done) == (6, 10)
    assert progress.fates == {Fate.FILLED: 10}
    assert set(names(client)) == {str(at) for at in range(1, 10)}, "what was done is not looked at again"
    assert not client.exists(STATE)


def test_a_place_is_found_again_though_its_document_is_gone(
    redis_server: RedisServer, keeper: Keeper, mongo: MongoTap
) -> None:
    users(mongo, 7)
    mongo.database["users"].insert_one({"_id": "text", "name": "n"})
    interrupted(redis_server, mongo, 3)
    mongo.database["users"].delete_one({"_id": 2})
    assert warm_view(keeper, USER_NAME).done == 8


def test_a_restart_begins_at_the_beginning(
    redis_server: RedisServer, keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    users(mongo, 10)
    interrupted(redis_server, mongo, 6)
    client.delete(key_of(0))
    progress = warm_view(keeper, USER_NAME, restart=True)
    assert progress.fates == {Fate.FILLED: 5, Fate.THERE: 5}
    assert (progress.resumed, progress.done) == (0, 10)


def test_a_redis_that_has_lost_everything_is_filled_from_the_beginning(
    redis_server: RedisServer, keeper: Keeper, client: redis.Redis, mongo: MongoTap
) -> None:
    users(mongo, 10)
    interrupted(redis_server, mongo, 6)
    client.flushall()
    assert warm_view(keeper, USER_NAME).fates == {Fate.FILLED: 10}


def test_an_outage_of_mongodb_gives_the_leases_back(
    redis_server: RedisServer, own_mongo: MongoServer, client: redis.Redis
) -> None:
    with MongoTap(own_mongo, "shop") as mongo, keeping(redis_server.url, mongo, load_timeout_seconds=2) as keeper:
        users(mongo, 3)

        def before(event: CommandStartedEvent) -> None:
            # One batch at a time, and no page after this one until it is done: so it is the load.
            if event.command_name == "find" and client.keys("{*}:meta"):
                mongo.before = lambda _event: None
                own_mongo.pause()

        mongo.before = before
        with pytest.raises(DatabaseUnavailable):
            warm_view(keeper, USER_NAME, concurrency=1)
        assert own_mongo.alive
        own_mongo.resume()
        assert names(client) == {}
        for at in range(3):
            assert b"l" not in meta_of(client, key_of(at)), "readers need not wait for a lease to end"


def test_a_rate_is_kept(keeper: Keeper, mongo: MongoTap) -> None:
    users(mongo, 30)
    began = time.monotonic()
    warm_view(keeper, USER_NAME, rate=60)
    assert time.monotonic() - began > 27 / 60


def test_many_batches_at_once(keeper: Keeper, client: redis.Redis, mongo: MongoTap) -> None:
    users(mongo, 400)
    assert warm_view(keeper, USER_NAME, concurrency=8).fates == {Fate.FILLED: 400}
    assert len(names(client)) == 400
