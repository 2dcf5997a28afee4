"""One keeper in a process: its cap on reads of MongoDB, its threads, its forks, its end, and clients of one's own."""

from __future__ import annotations

import os
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from cachekeeper import make_redis_client, metrics
from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.errors import CachekeeperError, Overloaded
from cachekeeper.reading.keeper import Keeper
from lookups import read_user
from testkit.gates import Gate, threads
from testkit.limits import LONG, NOWHERE, SLACK
from testkit.shop import Shop, answers_in_time
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.devservers import RedisServer

# --- the cap --------------------------------------------------------------------------------------------------------


STAMPEDE: dict[str, Any] = {
    "redis_timeout_seconds": 1,
    "load_timeout_seconds": 10,
    "lookup_timeout_seconds": 13,
    "lease_seconds": 13,
}
"""Who finds no slot gives up after a second. A release, or a read that is held meanwhile, has time enough."""


def stampede(shop: Shop, **changes: Any) -> None:
    """Twelve keys at once, three reads allowed, and MongoDB does not come back in time."""
    keeper = shop.keeper(**STAMPEDE, load_concurrency=3, **changes)
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
            assert time.monotonic() - started < keeper.settings.lookup_timeout_seconds + SLACK
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
    stop, looking = threading.Event(), [threading.Event() for _ in range(3)]

    def look_up_on_and_on(looked: threading.Event) -> None:
        while not stop.is_set():
            try:
                with suppress(CachekeeperError):
                    assert read_user(1, keeper=keeper) == "Ann"
            finally:
                looked.set()

    with threads(4) as go:
        lookups = [go(look_up_on_and_on, each) for each in looking]
        try:
            # Or one might not have begun before it is over.
            assert all(each.wait(LONG) for each in looking)
            for _ in range(20):
                stocked.flush()
                keeper.close()
        finally:
            stop.set()
        for each in lookups:
            each.result(LONG)
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


@pytest.mark.parametrize(
    "options",
    [
        {},  # redis-py's own default
        {"retry": Retry(NoBackoff(), 1)},
        {"retry": Retry(NoBackoff(), -1)},  # for ever
        {"retry": None, "retry_on_error": [redis.ConnectionError]},
    ],
)
def test_a_client_that_sends_twice_is_refused(stocked: Shop, options: dict[str, Any]) -> None:
    # Its first acquire may arrive behind its second, and behind an event, and so bring back a lease that was destroyed.
    with redis.Redis(port=stocked.server.port, **options) as client:
        with pytest.raises(TypeError, match=r"retry=Retry\(NoBackoff\(\), 0\)"):
            Keeper(stocked.settings(), cache=client)
        with pytest.raises(TypeError, match=r"retry=Retry\(NoBackoff\(\), 0\)"):
            Keeper(stocked.settings(), cache=stocked.redis, security=client)


@pytest.mark.parametrize(
    "options", [{}, {"protocol": 3}, {"protocol": 3, "cache_config": CacheConfig()}, {"single_connection_client": True}]
)
def test_a_client_on_which_a_reply_may_be_another_callers_is_refused(stocked: Shop, options: dict[str, Any]) -> None:
    with redis.Redis(port=stocked.server.port, retry=Retry(NoBackoff(), 0), **options) as client:
        with pytest.raises(TypeError, match=r"^cache: .*make_redis_client"):
            Keeper(stocked.settings(), cache=client)
        with pytest.raises(TypeError, match=r"^security: .*make_redis_client"):
            Keeper(stocked.settings(), cache=stocked.redis, security=client)


def test_nor_one_of_a_cluster(cluster: RedisServer) -> None:
    with (
        redis.RedisCluster(host="127.0.0.1", port=cluster.port, protocol=3, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(TypeError, match="make_redis_client"),
    ):
        Keeper(cache=client)


def test_a_client_that_was_made_for_it(stocked: Shop, cluster: RedisServer) -> None:
    with make_redis_client(stocked.server.url) as client:
        keeper = Keeper(stocked.settings(redis_url=NOWHERE), cache=client, database=stocked.db)
        answers_in_time(keeper)
        keeper.close()
        assert client.ping()
    with make_redis_client(cluster.url.replace("redis:", "redis+cluster:")) as client:
        keeper = Keeper(stocked.settings(redis_url=NOWHERE), cache=client, database=stocked.db)
        answers_in_time(keeper)
        assert client.dbsize() > 0


@pytest.mark.parametrize("options", [{"retry": None}, {"retry": Retry(NoBackoff(), 0)}])
def test_a_client_that_sends_once_is_taken(stocked: Shop, options: dict[str, Any]) -> None:
    pool = redis.ConnectionPool.from_url(stocked.server.url, protocol=2, **options)
    with redis.Redis(connection_pool=pool) as client:
        keeper = Keeper(stocked.settings(), cache=client, database=stocked.db)
        answers_in_time(keeper)
        made: Any = pool.get_connection()
        assert made.retry.get_retries() == 0
        pool.release(made)
    pool.disconnect()


def test_nor_one_whose_url_makes_it_send_twice(stocked: Shop) -> None:
    with (
        redis.Redis.from_url(f"{stocked.server.url}?retry_on_timeout=true") as client,
        pytest.raises(TypeError, match="must not retry"),
    ):
        Keeper(stocked.settings(), cache=client)
