"""Outages: every lookup answers in time, from the server that is left or with a typed error, and recovers by itself."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import redis

from cachekeeper.errors import CachekeeperError, CacheUnavailable, DatabaseUnavailable, Overloaded
from cachekeeper.reading.breaker import Breaker
from lookups import BLOCKED, SEARCH, SESSION, USER_NAME, is_blocked, read_session, read_user
from testkit.counting import counted
from testkit.gates import threads
from testkit.limits import LONG, NO_MONGO, NO_REDIS, NOWHERE, QUICK, SLACK
from testkit.shop import LOOKUPS, Shop, answers_in_time
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.reading.keeper import Keeper


FILLERS = 60_000


def fills(keeper: Keeper, client: redis.Redis) -> bool:
    answers_in_time(keeper)
    return client.get("user:1:name") == b"Ann"


def keys_are_there(shop: Shop) -> bool:
    """What `answers_in_time` looks up can be had without MongoDB. A fill may be late, or lost."""
    return shop.redis.exists("user:1:name", "session:s1", "search:lamp") == 3


def all_from_redis(keeper: Keeper, shop: Shop) -> bool:
    shop.reads.reset()
    answers_in_time(keeper)
    return shop.reads.count == 0


def fails_in_time(keeper: Keeper, error: type[CachekeeperError]) -> None:
    limit = keeper.settings.lookup_timeout_seconds + SLACK
    for name, (look_up, _) in LOOKUPS.items():
        started = time.monotonic()
        with pytest.raises(error):
            look_up(keeper)
        assert time.monotonic() - started < limit, name


# --- Redis ----------------------------------------------------------------------------------------------------------


@contextmanager
def out_of_memory(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    """A replica whose primary is gone: a failover that is not over."""
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def hung(server: RedisServer | MongoServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


STATES = {"hung": hung, "out of memory": out_of_memory, "read-only": read_only}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("used", [False, True], ids=["from the start", "in the middle"])
def test_redis_in_trouble(stocked: Shop, state: str, used: bool) -> None:  # noqa: FBT001
    keeper = stocked.keeper(**NO_REDIS)
    if used:
        read_user(2, keeper=keeper)
    with STATES[state](stocked.server):
        answers_in_time(keeper)
    wait_until(lambda: fills(keeper, stocked.redis), "it fills again")


@pytest.mark.parametrize("state", ["out of memory", "read-only"])
def test_hits_are_served_by_a_redis_that_takes_no_writes(stocked: Shop, state: str) -> None:
    """Each miss in between fails to take a lease; that must not make the hits wait, or fall upon MongoDB."""
    keeper = stocked.keeper()  # that Redis answers, and at once
    assert read_user(1, keeper=keeper) == "Ann"
    stocked.db.users.insert_many([{"_id": each, "name": "Bob"} for each in range(10, 20)])
    with STATES[state](stocked.server):
        for each in range(10, 20):
            stocked.reads.reset()
            assert read_user(each, keeper=keeper) == "Bob"
            assert stocked.reads.count == 1
            assert read_user(1, keeper=keeper) == "Ann"
            assert stocked.reads.count == 1


def test_redis_refused(stocked: Shop) -> None:
    answers_in_time(stocked.keeper(redis_url=NOWHERE, **NO_REDIS))
    assert stocked.redis.dbsize() == 0


def test_redis_killed_and_back(stocked: Shop, own_redis: RedisServer) -> None:
    keeper = stocked.keeper(redis_url=own_redis.url, **NO_REDIS)
    answers_in_time(keeper)
    own_redis.kill()
    answers_in_time(keeper)
    own_redis.restart()
    with own_redis.client() as client:
        wait_until(lambda: fills(keeper, client), "it fills again")
    wait_until(lambda: all_from_redis(keeper, stocked), "it serves all of it again")


def test_redis_that_loads_its_data(stocked: Shop, own_redis: RedisServer) -> None:
    # Of a snapshot, Redis 6.2 looks up from loading once in 2 MB; of an append-only file, every version once in a
    # thousand commands.
    own_redis.config |= {"appendonly": "yes", "appendfsync": "no"}
    own_redis.restart()
    with own_redis.client(timeout=LONG) as client, client.pipeline(transaction=False) as pipe:
        for each in range(FILLERS):
            pipe.set(f"filler:{each}", "x")
        pipe.execute()
    own_redis.kill()
    # Microseconds a command, of which a sleep makes 100 or more: it loads for 6 s or longer.
    own_redis.config |= {"key-load-delay": 50}
    own_redis.start_seconds = 4 * LONG
    keeper = stocked.keeper(redis_url=own_redis.url, **NO_REDIS)

    def loading() -> bool:
        try:
            with own_redis.client(timeout=1) as client:
                client.get("x")
        except redis.BusyLoadingError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            pass
        return False

    with threads() as go:
        start = go(own_redis.restart, keep_data=True)
        wait_until(loading, "it loads")
        answers_in_time(keeper)
        assert not start.done(), "it loaded too fast for this test"
        if not own_redis.found.version.startswith("6.2."):  # which takes no CONFIG SET while it loads
            with own_redis.client() as client:
                client.config_set("key-load-delay", 0)
        start.result(4 * LONG)
    with own_redis.client() as client:
        wait_until(lambda: fills(keeper, client), "it fills again")


def test_a_session_that_only_redis_may_know_is_not_said_to_be_absent(stocked: Shop) -> None:
    keeper = stocked.keeper(redis_url=NOWHERE, **NO_REDIS)
    with pytest.raises(CacheUnavailable):
        read_session("s2", keeper=keeper)
    assert read_user(2, keeper=keeper) is None  # names are ours


def one_timeout_a_pause(shop: Shop) -> None:
    """Behind a hung Redis, lookups one after the other pay its time limit once a pause, not once each."""
    keeper = shop.keeper(**NO_REDIS)
    read_user(1, keeper=keeper)
    with hung(shop.server), counted() as seen:
        started = time.monotonic()
        for each in range(12):
            read_user(each, keeper=keeper)
        elapsed = time.monotonic() - started
    assert 1 <= seen["cache_unavailable"] <= 1 + elapsed / QUICK["redis_timeout_seconds"]
    assert seen["cache_unavailable"] < 10
    assert seen["uncached_load"] == 12


def test_a_hung_redis_costs_its_time_limit_once_a_pause(stocked: Shop) -> None:
    one_timeout_a_pause(stocked)


def test_without_the_breaker_it_costs_it_every_time(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "allows", lambda _: True)
    with pytest.raises(AssertionError):
        one_timeout_a_pause(stocked)


def test_after_a_pause_one_tries_while_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    breaker = Breaker(0.5)
    assert [breaker.allows(), breaker.allows()] == [True, True]
    breaker.failed(redis.ConnectionError())
    now[0] += 0.4
    assert not breaker.allows()
    now[0] += 0.2
    assert [breaker.allows(), breaker.allows()] == [True, False]  # one tries
    now[0] += 0.6
    assert [breaker.allows(), breaker.allows()] == [True, False]  # it never came back: the next one
    breaker.failed(redis.TimeoutError())
    assert not breaker.allows()
    now[0] += 0.6
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows(), breaker.allows()] == [True, True]
    breaker.failed(redis.ReadOnlyError())  # it answers
    assert [breaker.allows(), breaker.allows()] == [True, True]


# --- MongoDB --------------------------------------------------------------------------------------------------------


def test_mongodb_hung(stocked: Shop) -> None:
    keeper = stocked.keeper(watched=False, **NO_MONGO)
    wait_until(lambda: recovers(keeper) and keys_are_there(stocked), "its first connections, and fills")
    with hung(stocked.mongo):
        answers_in_time(keeper)  # hits
        stocked.flush()
        fails_in_time(keeper, DatabaseUnavailable)
        fails_in_time(stocked.keeper(watched=False, **NO_MONGO), DatabaseUnavailable)  # one that never connected
    wait_until(lambda: recovers(keeper), "it reads again")


def test_mongodb_refused(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **NO_MONGO)
    shop.redis.set("user:1:name", "Ann")
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    fails_in_time(keeper, DatabaseUnavailable)
    assert shop.redis.keys("*") == [SEARCH.filter_key.encode()]  # leases were given back


def test_mongodb_killed_and_back(shop: Shop, own_mongo: MongoServer) -> None:
    with own_mongo.client() as client:
        client[shop.name].users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    keeper = shop.keeper(watched=False, mongodb_url=own_mongo.url_of(shop.name), **NO_MONGO)

    def back() -> bool:
        try:
            assert read_user(1, keeper=keeper) == "Ann"
        except DatabaseUnavailable:
            return False
        return shop.redis.get("user:1:name") == b"Ann"

    wait_until(back, "its first connections, and a fill")
    own_mongo.kill()
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        read_user(1, keeper=keeper)
    assert time.monotonic() - started < keeper.settings.lookup_timeout_seconds + SLACK
    own_mongo.restart(keep_data=True)
    wait_until(back, "it reads and fills again")


def recovers(keeper: Keeper) -> bool:
    try:
        answers_in_time(keeper)
    except DatabaseUnavailable:
        return False
    return True


def test_both_away(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, redis_url=NOWHERE, mongodb_url="mongodb://127.0.0.1:1/shop", **QUICK)
    fails_in_time(keeper, DatabaseUnavailable)


def test_an_error_holds_no_address_and_no_password(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://user:s3cret@127.0.0.1:1/shop", **QUICK)
    with pytest.raises(DatabaseUnavailable) as caught:
        read_user(1, keeper=keeper)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value) == "MongoDB failed while reading users (ServerSelectionTimeoutError)"


# --- a Cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["hung", "refused"])
def test_a_cluster_that_nobody_could_connect_to(stocked: Shop, own_redis: RedisServer, state: str) -> None:
    limits: dict[str, Any] = {
        "redis_timeout_seconds": 1,
        "load_timeout_seconds": 5,
        "lookup_timeout_seconds": 8,
        "lease_seconds": 8,
    }
    url = own_redis.url if state == "hung" else NOWHERE
    keeper = stocked.keeper(
        redis_url=url.replace("redis:", "redis+cluster:"), security_redis_url=stocked.server.url, **limits
    )

    def timed() -> tuple[object, float]:
        started = time.monotonic()
        return read_user(1, keeper=keeper), time.monotonic() - started

    with hung(own_redis), threads(12) as go:
        # Twelve that connect one after the other would take twelve seconds.
        for each in [go(timed) for _ in range(12)]:
            name, seconds = each.result(LONG)
            assert name == "Ann"
            assert seconds < limits["lookup_timeout_seconds"] + SLACK
        # Its server is another one, which is well.
        with counted() as seen:
            assert read_session("s1", keeper=keeper) == {"cart": [1]}
            assert read_session("s1", keeper=keeper) == {"cart": [1]}
        assert seen["load"] == 1


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["name", "session", "search", "block"])
def test_the_first_look_is_part_of_a_lookups_time(stocked: Shop, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With no slot free, all the time that is left is spent waiting for one: none, where Redis took it all."""
    keeper = stocked.keeper(**QUICK)
    look_ups: dict[str, Callable[[Keeper], object]] = {
        **{each: look_up for each, (look_up, _) in LOOKUPS.items()},
        "block": lambda keeper: is_blocked("x", keeper=keeper),
    }
    views: dict[str, Any] = {"session": SESSION, "name": USER_NAME, "block": BLOCKED, "search": SEARCH}
    reader = keeper.binding(views[name]).reader
    patience: list[float] = []

    def no_slot(seconds: float) -> NoReturn:
        patience.append(seconds)
        raise Overloaded("none")

    clock, skipped = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + skipped)
    monkeypatch.setattr(reader.database, "slot", no_slot)

    def slow_get(*_: object, **__: object) -> NoReturn:
        nonlocal skipped
        skipped += keeper.settings.lookup_timeout_seconds
        raise redis.ConnectionError

    monkeypatch.setattr(reader, "_get", slow_get)
    monkeypatch.setattr(reader.store.client, "pipeline", slow_get)
    monkeypatch.setattr(reader.store.client, "evalsha", slow_get)
    with pytest.raises(Overloaded):
        look_ups[name](keeper)
    assert patience == [0]
