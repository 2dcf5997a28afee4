"""Outages: every lookup answers in time, from the server that is left or with a typed error, and recovers by itself."""

from __future__ import annotations

import os
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from cachekeeper import metrics
from cachekeeper.database import DatabaseReads
from cachekeeper.errors import CachekeeperError, CacheUnavailable, DatabaseUnavailable, Overloaded
from cachekeeper.keeper import Keeper
from cachekeeper.reader.sync import Breaker
from lookups import read_session, read_user, search_products
from tests.shop import LONG, QUICK, SLACK, Gate, Shop, counted, threads
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachekeeper.embedded import MongoServer, RedisServer

NOWHERE = "redis://127.0.0.1:1/0"
LIMIT = float(QUICK["lookup_timeout_seconds"])
# Where only Redis is in trouble, MongoDB may take its time: the test machine may be busy.
NO_REDIS = {**QUICK, "load_timeout_seconds": 5, "lookup_timeout_seconds": 6, "lease_seconds": 6}

LOOKUPS: dict[str, tuple[Callable[[Keeper], object], object]] = {
    "name": (lambda keeper: read_user(1, keeper=keeper), "Ann"),
    "session": (lambda keeper: read_session("s1", keeper=keeper), {"cart": [1]}),
    "search": (lambda keeper: [each["name"] for each in search_products("lamp", keeper=keeper)], ["Lamp"]),
}


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A database with one of each."""
    ends = datetime.now(UTC) + timedelta(minutes=30)
    shop.db.users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    shop.db.sessions.insert_one({"_id": "s1", "data": {"cart": [1]}, "version": 1, "expires_at": ends})
    shop.db.products.insert_one({"_id": 1, "name": "Lamp"})
    return shop


def answers_in_time(keeper: Keeper) -> None:
    """Every lookup has the right answer within the limit."""
    for name, (look_up, wanted) in LOOKUPS.items():
        started = time.monotonic()
        assert look_up(keeper) == wanted, name
        assert time.monotonic() - started < LIMIT + SLACK, name


def fills(keeper: Keeper, client: redis.Redis) -> bool:
    answers_in_time(keeper)
    return client.get("user:1:name") == b"Ann"


def fails_in_time(keeper: Keeper, error: type[CachekeeperError]) -> None:
    for name, (look_up, _) in LOOKUPS.items():
        started = time.monotonic()
        with pytest.raises(error):
            look_up(keeper)
        assert time.monotonic() - started < LIMIT + SLACK, name


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
    keeper = stocked.keeper(**NO_REDIS)
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
        stocked.reads.reset()
        answers_in_time(keeper)
    assert stocked.reads.count == 0


def test_redis_that_loads_its_data(stocked: Shop, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.mset({f"filler:{each}": "x" * 1000 for each in range(200)})
        client.save()
    own_redis.kill()
    own_redis.config |= {"key-load-delay": 10_000, "loading-process-events-interval-bytes": 1024}
    keeper = stocked.keeper(redis_url=own_redis.url, **NO_REDIS)

    def loading() -> bool:
        try:
            with own_redis.client(timeout=1) as client:
                client.get("x")
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            pass
        return False

    with threads() as go:
        start = go(own_redis.restart, keep_data=True)
        wait_until(loading, "it loads")
        answers_in_time(keeper)
        assert not start.done(), "it loaded too fast for this test"
        start.result(LONG)
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
    keeper = stocked.keeper(watched=False, **QUICK)
    answers_in_time(keeper)
    with hung(stocked.mongo):
        answers_in_time(keeper)  # hits
        stocked.flush()
        fails_in_time(keeper, DatabaseUnavailable)
        fails_in_time(stocked.keeper(watched=False, **QUICK), DatabaseUnavailable)  # one that never connected
    wait_until(lambda: recovers(keeper), "it reads again")


def test_mongodb_refused(shop: Shop) -> None:
    keeper = shop.keeper(watched=False, mongodb_url="mongodb://127.0.0.1:1/shop", **QUICK)
    shop.redis.set("user:1:name", "Ann")
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    fails_in_time(keeper, DatabaseUnavailable)
    assert shop.redis.keys("*") == []  # leases were given back


def test_mongodb_killed_and_back(shop: Shop, own_mongo: MongoServer) -> None:
    with own_mongo.client() as client:
        client[shop.name].users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    keeper = shop.keeper(watched=False, mongodb_url=own_mongo.url_of(shop.name), **QUICK)
    assert read_user(1, keeper=keeper) == "Ann"
    own_mongo.kill()
    assert read_user(1, keeper=keeper) == "Ann"
    shop.flush()
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        read_user(1, keeper=keeper)
    assert time.monotonic() - started < LIMIT + SLACK
    own_mongo.restart(keep_data=True)

    def back() -> str | None:
        try:
            return read_user(1, keeper=keeper)
        except DatabaseUnavailable:
            return None

    assert wait_until(back, "it reads again") == "Ann"
    assert shop.redis.get("user:1:name") == b"Ann"


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


# --- the cap --------------------------------------------------------------------------------------------------------


def stampede(shop: Shop, **changes: Any) -> None:
    """Twelve keys at once, three reads allowed, and MongoDB does not come back in time."""
    keeper = shop.keeper(**NO_REDIS, load_concurrency=3, **changes)
    shop.db.users.insert_many([{"_id": each, "name": "Ann"} for each in range(12)])
    gates = [Gate() for _ in range(12)]
    shop.reads.before.extend(gates)
    with threads(12) as go:
        started = time.monotonic()
        try:
            names = [go(read_user, each, keeper=keeper) for each in range(12)]
            wait_until(
                lambda: shop.reads.count > 3 or sum(name.done() for name in names) == 9,
                "those over the cap have an answer, or read all the same",
            )
            assert time.monotonic() - started < NO_REDIS["lookup_timeout_seconds"] + SLACK
            assert shop.reads.count == 3
        finally:
            for gate in gates:
                gate.open()
        errors = [name.exception(LONG) for name in names]
    assert sum(isinstance(error, Overloaded) for error in errors) == 9
    assert sum(error is None for error in errors) == 3
    assert shop.reads.most_at_once == 3


@pytest.mark.parametrize("changes", [{}, {"redis_url": NOWHERE}], ids=["a Redis that lost everything", "no Redis"])
def test_never_more_reads_at_once_than_the_cap_and_over_it_a_typed_error(shop: Shop, changes: dict[str, Any]) -> None:
    stampede(shop, **changes)
    assert shop.redis.hgetall("{user:11:name}:meta").keys() <= {b"v"}  # nobody still holds a lease


def test_without_the_cap_they_all_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseReads, "slot", lambda *_: ExitStack())
    with pytest.raises(AssertionError, match="== 3"):
        stampede(shop)


def test_a_slot_that_comes_free_in_time_is_taken(shop: Shop) -> None:
    shop.db.users.insert_many([{"_id": each, "name": "Ann"} for each in range(12)])
    keeper = shop.keeper(load_concurrency=3)
    with threads(12) as go:
        names = [go(read_user, each, keeper=keeper) for each in range(12)]
        assert [name.result(LONG) for name in names] == ["Ann"] * 12
    assert shop.reads.count == 12
    assert shop.reads.most_at_once <= 3


# --- threads, forks, closing ----------------------------------------------------------------------------------------


def in_child(look_up: Callable[[], object]) -> str:
    """What a forked child of this process answers; it must end within some seconds."""
    source, sink = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of forks beside threads: that is the test
        pid = os.fork()
    if pid == 0:
        try:
            os.write(sink, repr(look_up()).encode())
        except BaseException as error:  # noqa: BLE001  # the child must not go on as a second pytest
            os.write(sink, repr(error).encode())
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source) as answer, threads(1) as go:
        reading = go(answer.read)
        try:
            return str(reading.result(LONG))
        except TimeoutError:
            os.kill(pid, 9)
            return "it hangs"
        finally:
            os.waitpid(pid, 0)


def test_a_keeper_works_in_a_forked_child_and_in_its_parent_afterwards(stocked: Shop) -> None:
    keeper = stocked.keeper(watched=False)
    assert read_user(1, keeper=keeper) == "Ann"
    assert in_child(lambda: [read_user(1, keeper=keeper), read_user(2, keeper=keeper)]) == "['Ann', None]"
    stocked.flush()
    assert in_child(lambda: read_user(1, keeper=keeper)) == "'Ann'"
    assert read_user(1, keeper=keeper) == "Ann"
    answers_in_time(keeper)
    assert in_child(lambda: answers_in_time(keeper)) == "None"


def test_a_fork_in_the_middle_of_a_lookup(stocked: Shop) -> None:
    """The child inherits no lock and no slot of a thread that it does not have."""
    keeper = stocked.keeper(load_concurrency=1, redis_url=NOWHERE)
    has_slot = Gate()
    stocked.reads.before.append(has_slot)
    with threads() as go:
        lookup = go(read_user, 1, keeper=keeper)
        has_slot.wait_for_arrival()
        other = stocked.keeper(watched=False)
        try:
            with other._lock, metrics.COUNTERS._lock, metrics._said_lock:  # as if other threads were in there
                answer = in_child(lambda: [read_user(1, keeper=other)])
        finally:
            has_slot.open()
        assert lookup.result(LONG) == "Ann"
    assert answer == "['Ann']"
    assert read_user(1, keeper=keeper) == "Ann"


def test_many_threads_one_keeper(stocked: Shop) -> None:
    keeper = stocked.keeper(watched=False)
    with threads(8) as go:
        done = [go(answers_in_time, keeper) for _ in range(60)]
        for each in done:
            each.result(LONG)


def test_a_keeper_can_be_used_again_after_it_was_closed(stocked: Shop) -> None:
    keeper = stocked.keeper(watched=False)
    for _ in range(2):
        answers_in_time(keeper)
        keeper.close()
        keeper.close()
    answers_in_time(keeper)


def test_closing_under_the_feet_of_others_ends_in_answers_or_typed_errors(stocked: Shop) -> None:
    keeper = stocked.keeper(watched=False)
    stop = threading.Event()

    def look_up_on_and_on() -> int:
        looked = 0
        while not stop.is_set():
            with suppress(CachekeeperError):
                assert read_user(1, keeper=keeper) == "Ann"
            looked += 1
        return looked

    with threads(4) as go:
        lookups = [go(look_up_on_and_on) for _ in range(3)]
        try:
            for _ in range(20):
                stocked.flush()
                keeper.close()
        finally:
            stop.set()
        assert all(each.result(LONG) for each in lookups)
    answers_in_time(keeper)


def test_clients_of_ones_own_are_used_and_left_open(stocked: Shop) -> None:
    cache = stocked.client()
    database = stocked.db
    keeper = Keeper(
        stocked.settings(redis_url=NOWHERE, mongodb_url="mongodb://127.0.0.1:1/none"), cache=cache, database=database
    )
    answers_in_time(keeper)
    assert cache.counted["GET"] == 2
    assert cache.counted["read_until"] == 1  # the security server is the same one
    keeper.close()
    assert cache.ping()
    assert database.users.count_documents({}) == 1


def test_a_security_client_of_its_own(stocked: Shop) -> None:
    cache, security = stocked.client(), stocked.client()
    keeper = Keeper(stocked.settings(), cache=cache, security=security, database=stocked.db)
    answers_in_time(keeper)
    assert (cache.counted["GET"], cache.counted["read_until"]) == (2, 0)
    assert (security.counted["GET"], security.counted["read_until"]) == (0, 1)


def test_a_client_that_answers_text_is_refused(stocked: Shop) -> None:
    with redis.Redis.from_url(stocked.server.url, decode_responses=True) as client:
        with pytest.raises(TypeError, match="decode_responses"):
            Keeper(stocked.settings(), cache=client)
        with pytest.raises(TypeError, match="decode_responses"):
            Keeper(stocked.settings(), cache=stocked.redis, security=client)
